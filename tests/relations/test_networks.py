"""The choice of networks under a budget. Shapes: M tasks."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from mtrl.errors import BadInput
from mtrl.relations.networks import Network, choose_networks


def brute_force(affinity: np.ndarray, budget: int) -> float:
    """The best sum of gains over all choices of at most `budget` sets of tasks."""
    size = len(affinity)
    tasks = range(size)
    sets = [set(own) for number in range(1, size + 1) for own in combinations(tasks, number)]

    def gain(task: int, own: set[int]) -> float:
        others = own - {task}
        return float(np.mean([affinity[other, task] for other in others])) if others else 0.0

    choices = (choice for number in range(1, budget + 1) for choice in combinations(sets, number))
    return max(
        sum(max(gain(task, own) for own in choice if task in own) for task in tasks)
        for choice in choices
        if set().union(*choice) == {*tasks}
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_branch_and_bound_equals_brute_force(seed: int, budget: int) -> None:
    affinity = np.random.default_rng(seed).normal(size=(4, 4))
    networks, total = choose_networks(affinity, budget)
    assert total == pytest.approx(brute_force(affinity, budget), abs=1e-12)
    assert len(networks) <= budget
    assert sorted(task for network in networks for task in network.serves) == [0, 1, 2, 3]
    assert all({*network.serves} <= {*network.trained_on} for network in networks)
    gains = [
        np.mean([affinity[other, task] for other in network.trained_on if other != task] or [0.0])
        for network in networks
        for task in network.serves
    ]
    assert sum(gains) == pytest.approx(total)


def test_two_pairs_get_a_network_each_and_a_harmed_task_its_own() -> None:
    pairs = np.array([[0, 2, -1, -1], [2, 0, -1, -1], [-1, -1, 0, 2], [-1, -1, 2, 0.0]])
    assert choose_networks(pairs, 2) == ([Network((0, 1), (0, 1)), Network((2, 3), (2, 3))], 8.0)
    assert choose_networks(pairs, 1) == ([Network((0, 1, 2, 3), (0, 1, 2, 3))], 0.0)
    assert choose_networks(-np.ones((2, 2)), 2) == ([Network((0,), (0,)), Network((1,), (1,))], 0.0)


def test_a_task_may_help_in_a_network_that_does_not_serve_it() -> None:
    # Task 0 helps task 1 and is harmed by it.
    assert choose_networks(np.array([[0, 3.0], [-1, 0]]), 2) == ([Network((0,), (0,)), Network((0, 1), (1,))], 3.0)


def test_permuting_the_tasks_permutes_the_networks() -> None:
    affinity = np.random.default_rng(3).normal(size=(5, 5))
    networks, total = choose_networks(affinity, 2)
    for order in list(permutations(range(5)))[::17]:
        moved, same = choose_networks(affinity[np.ix_(order, order)], 2)
        assert same == pytest.approx(total)
        named = {tuple(sorted(order[task] for task in network.serves)) for network in moved}
        assert named == {network.serves for network in networks}


def test_twelve_tasks_are_chosen_for_and_thirteen_refused() -> None:
    networks, _ = choose_networks(np.random.default_rng(1).normal(size=(12, 12)), 4)
    assert 1 <= len(networks) <= 4
    with pytest.raises(BadInput, match="13 tasks are too many; networks are chosen for 12 at most"):
        choose_networks(np.zeros((13, 13)), 2)


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInput, match="budget: 0 is not allowed"):
        choose_networks(np.zeros((2, 2)), 0)
    with pytest.raises(BadInput, match="affinity of some pairs of tasks is unknown"):
        choose_networks(np.array([[0, np.nan], [1, 0]]), 1)
