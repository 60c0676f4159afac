"""Returns divided by the largest one seen. Shapes: M tasks, N slots."""

from __future__ import annotations

import pytest
import torch

from mtrl.normalization.return_range import ReturnRange
from tests.normalization.steps import step


def test_the_largest_discounted_sum_of_a_task_becomes_the_limit() -> None:
    normalizer = ReturnRange(3, ReturnRange.Config(limit=10.0), 0.5)
    normalizer.on_env_step(step([1.0, -8.0], [0, 1], [False, True]))
    normalizer.on_env_step(step([2.0, 4.0], [0, 1], [False, False]))
    # Slot 0: 1, 2.5; slot 1: -8, then a new episode: 4. Task 2 was never seen.
    assert normalizer.largest.tolist() == [2.5, 8.0, 0.0]
    tasks = torch.tensor([0, 1, 2])
    returns = torch.tensor([2.5, -8.0, 3.0])
    assert normalizer.normalize(returns, tasks).tolist() == pytest.approx([10.0, -10.0, 3.0])
    torch.testing.assert_close(normalizer.denormalize(normalizer.normalize(returns, tasks), tasks), returns)


def test_the_scale_never_shrinks_and_no_broken_reward_enters_it() -> None:
    normalizer = ReturnRange(1, ReturnRange.Config(), 0.9)
    normalizer.on_env_step(step([5.0], [0], [True]))
    for reward in (1.0, float("nan"), float("inf")):
        normalizer.on_env_step(step([reward], [0], [True]))
    assert normalizer.largest.tolist() == [5.0]


def test_the_range_and_the_running_sums_are_part_of_the_state() -> None:
    normalizer, restored = (ReturnRange(2, ReturnRange.Config(), 0.5) for _ in range(2))
    normalizer.on_env_step(step([1.0, 8.0], [0, 1], [False, False]))
    restored.load_state_dict(normalizer.state_dict())
    for each in (normalizer, restored):
        each.on_env_step(step([3.0, 9.0], [0, 1], [False, False]))
    assert restored.largest.tolist() == normalizer.largest.tolist() == [3.5, 13.0]


def test_the_range_stays_in_its_place_in_memory_which_captured_graphs_read() -> None:
    normalizer = ReturnRange(1, ReturnRange.Config(), 0.9)
    before = normalizer.largest.data_ptr()
    normalizer.on_env_step(step([5.0], [0], [True]))
    assert normalizer.largest.data_ptr() == before
