"""The benchmark of aggregators measures every registered one."""

from __future__ import annotations

import pytest

from benchmarks.updates.aggregators import kind_of, measure, table
from mtrl.aggregation import aggregators


@pytest.mark.slow
def test_every_kind_of_aggregator_is_measured_against_mean() -> None:
    names = ["dwa", "famo", "pcgrad", "mgda-ub", "gradnorm"]
    rows = measure(names, "point-mass", repeats=1, updates_per_repeat=1)
    assert [row.name for row in rows] == ["mean", *names]
    assert rows[0].ratio.values == (1.0,)
    assert [row.name for row in rows if row.solver > 0] == ["pcgrad", "gradnorm"]
    assert all(row.name in table(rows) for row in rows)
    assert rows[3].json()["target_of_ratio"] == 1.3


def test_every_aggregator_has_a_target() -> None:
    kinds = {name: kind_of(name) for name in aggregators.names()}
    assert set(kinds.values()) == {"weighting", "representation", "gradient", "famo"}
    assert (kinds["mean"], kinds["db-mtl"], kinds["graddrop"]) == ("weighting", "gradient", "representation")
