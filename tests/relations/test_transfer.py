"""Transfer from results of runs, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mtrl.errors import BadInput
from mtrl.relations.transfer import Result, transfer


def results(*scores: dict[str, float]) -> list[Result]:
    return [Result(own, 1000 * len(own)) for own in scores]


def test_pairwise_transfer_is_the_gain_over_being_alone() -> None:
    runs = results({"a": 0.5}, {"a": 0.7}, {"b": 0.4}, {"a": 0.9, "b": 0.1})
    tasks, affinity, comparisons = transfer(runs)
    assert tasks == ["a", "b"]
    # Row: who helps. b gains -0.3 by a, and a gains 0.3 by b.
    np.testing.assert_allclose(affinity, [[0, -0.3], [0.3, 0]], atol=1e-12)
    assert [(own.task, own.difference, own.seeds) for own in comparisons] == [
        ("a", pytest.approx(0.3), (2, 1)),
        ("b", pytest.approx(-0.3), (1, 1)),
    ]
    assert comparisons[0].env_steps_per_task == (1000, 1000)


def test_leaving_one_out_tells_what_it_adds_to_the_rest() -> None:
    runs = results({"a": 0.6, "b": 0.6, "c": 0.6}, {"b": 0.5, "c": 0.8}, {"a": 0.6, "c": 0.3})
    tasks, affinity, comparisons = transfer(runs)
    assert tasks == ["a", "b", "c"]
    np.testing.assert_allclose(affinity, [[0, 0.1, -0.2], [0, 0, 0.3], [np.nan, np.nan, 0]], atol=1e-12)
    assert comparisons == []


def test_all_against_one_needs_no_pairs() -> None:
    _, affinity, comparisons = transfer(results({"a": 0.2}, {"a": 0.6, "b": 0.6, "c": 0.6}))
    assert np.isnan(affinity[~np.eye(3, dtype=bool)]).all()
    assert [(own.task, own.trained_with) for own in comparisons] == [("a", ["b", "c"])]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(BadInput, match="all runs are of the one task a; relations need two at least"):
        transfer(results({"a": 0.2}, {"a": 0.3}))
    with pytest.raises(BadInput, match="no two runs can be compared"):
        transfer(results({"a": 0.2}, {"b": 0.3, "c": 0.1}))
