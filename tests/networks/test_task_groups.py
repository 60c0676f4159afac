"""Groups of tasks from an affinity."""

from __future__ import annotations

import numpy as np
import pytest

from mtrl.errors import BadInput
from mtrl.networks.task_groups import groups, tree

PAIRS = np.array([[9, 0.9, 0.1, 0.0], [0.7, 9, 0.2, 0.1], [0.1, 0.2, 9, 0.6], [0.0, 0.1, 0.6, 9]])


def test_the_closest_tasks_are_together() -> None:
    assert groups(PAIRS, 1) == [[0, 1, 2, 3]]
    assert groups(PAIRS, 2) == [[0, 1], [2, 3]]
    assert groups(PAIRS, 3) == [[0, 1], [2], [3]]
    assert groups(PAIRS, 4) == [[0], [1], [2], [3]]


def test_both_directions_of_a_pair_count_and_the_diagonal_does_not() -> None:
    # 0 helps 1 with 1.0 and gets nothing back; 1 and 2 help each other with 0.6.
    affinity = np.array([[-5, 1.0, 0], [0, 50, 0.6], [0, 0.6, np.nan]])
    assert groups(affinity, 2) == [[0], [1, 2]]


def test_linkage_is_by_the_mean_over_pairs() -> None:
    # Task 2 is very close to 1 and far from 0, which are together first; on average it is nearer to 3.
    affinity = np.array([[0, 10, -8, 0], [10, 0, 8, 0], [-8, 8, 0, 1], [0, 0, 1, 0.0]])
    assert groups(affinity, 2) == [[0, 1], [2, 3]]


def test_permuting_the_tasks_permutes_the_groups() -> None:
    affinity = np.random.default_rng(1).normal(size=(7, 7))
    order = [3, 6, 0, 2, 5, 1, 4]
    moved = groups(affinity[np.ix_(order, order)], 3)
    assert sorted(sorted(order[task] for task in own) for own in moved) == groups(affinity, 3)


def test_a_tree_is_nested() -> None:
    assert tree(PAIRS, [1, 2, 4]) == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 2, 3]]
    affinity = np.random.default_rng(2).normal(size=(8, 8))
    below, above = tree(affinity, [3, 5])
    assert len({*zip(above, below, strict=True)}) == 5


def test_bad_numbers_and_unknown_affinities_are_refused() -> None:
    for number in (0, 5):
        with pytest.raises(BadInput, match=f"groups: {number} is not allowed; must be 1 to the number of tasks, 4"):
            groups(PAIRS, number)
    with pytest.raises(BadInput, match="affinity of some pairs of tasks is unknown"):
        groups(np.array([[0, np.nan], [1, 0]]), 1)
