"""The running scale of returns. Shapes: M tasks, N slots."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtrl.normalization.return_scale import ReturnScale
from tests.normalization.steps import step


def scale(num_tasks: int = 2, discount: float = 0.5) -> ReturnScale:
    return ReturnScale(num_tasks, ReturnScale.Config(), discount)


@pytest.mark.parametrize("truncated", [False, True])
def test_the_scale_is_the_standard_deviation_of_discounted_sums_of_rewards(truncated: bool) -> None:
    normalizer = scale()
    normalizer.on_env_step(step([1.0, 8.0], [0, 1], [False, False]))
    normalizer.on_env_step(step([2.0, 0.0], [0, 1], [True, False]))
    normalizer.on_env_step(step([4.0, 8.0], [0, 1], [False, False]))
    normalizer.on_env_step(step([1.0, 1.0], [1, 1], [False, True], truncated))
    # Slot 0: 1, 2.5, then a new episode: 4, which another task goes on with; slot 1: 8, 4, 10, 6.
    sums = [1.0, 2.5, 4.0], [8.0, 4.0, 10.0, 3.0, 6.0]
    if not truncated:
        assert normalizer.sums.tolist() == [3.0, 0.0]
    expected = [float(np.std(own)) for own in sums]
    assert normalizer.divisors().tolist() == pytest.approx(expected)
    tasks = torch.tensor([1, 0])
    values = torch.tensor([2.0, 3.0])
    assert normalizer.denormalize(values, tasks).tolist() == pytest.approx([2 * expected[1], 3 * expected[0]])
    torch.testing.assert_close(normalizer.normalize(normalizer.denormalize(values, tasks), tasks), values)


def test_before_there_is_anything_to_measure_the_scale_is_one() -> None:
    normalizer = scale()
    assert normalizer.divisors().tolist() == [1.0, 1.0]
    normalizer.on_env_step(step([5.0], [0], [False]))
    assert normalizer.divisors().tolist() == [1.0, 1.0]


def test_rewards_that_never_differ_give_no_infinite_units() -> None:
    normalizer = scale(1)
    for _ in range(5):
        normalizer.on_env_step(step([0.0], [0], [True]))
    assert normalizer.divisors().tolist() == pytest.approx([1e-4])


def test_the_running_sums_are_part_of_the_state() -> None:
    normalizer, restored = scale(), scale()
    normalizer.on_env_step(step([1.0, 8.0, 2.0], [0, 1, 1], [False, False, True]))
    restored.load_state_dict(normalizer.state_dict())
    for each in (normalizer, restored):
        each.on_env_step(step([3.0, 1.0, 1.0], [0, 1, 1], [False, False, False]))
    assert restored.divisors().tolist() == normalizer.divisors().tolist()
    assert restored.sums.tolist() == [3.5, 5.0, 1.0]
