"""Slots are shared out evenly by cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.metaworld.tasks import MT10, MT50, STEP_COSTS
from envs.workers.load_balancing import balanced_slots


def test_equal_slots_are_dealt_out_in_turn() -> None:
    assert balanced_slots([1.0] * 5, 2) == [(0, 2, 4), (1, 3)]


def test_a_costly_slot_has_a_worker_to_itself() -> None:
    assert balanced_slots([1.0, 1.0, 3.0, 1.0], 2) == [(2,), (0, 1, 3)]


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=40), st.integers(1, 8))
def test_every_slot_has_one_worker_and_none_is_late_by_more_than_one_slot(costs: list[float], num_workers: int) -> None:
    shares = balanced_slots(costs, num_workers)
    assert sorted(slot for share in shares for slot in share) == list(range(len(costs)))
    loads = [sum(costs[slot] for slot in share) for share in shares]
    assert max(loads) - min(loads) <= max(costs) + 1e-9
    if len(costs) >= num_workers:
        assert all(shares)


def test_every_metaworld_task_has_a_cost() -> None:
    assert tuple(STEP_COSTS) == MT50
    costs = [STEP_COSTS[task] for task in MT10]
    loads = [sum(costs[slot] for slot in share) for share in balanced_slots(costs, 2)]
    assert max(loads) == pytest.approx(np.mean(loads), rel=0.03)
