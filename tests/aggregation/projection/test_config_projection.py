"""Conflict-free inverse gradients, against numbers worked by hand and torchjd."""

from __future__ import annotations

import pytest
import torch
import torchjd.aggregation

from mtrl.aggregation.projection.config import ConFIG
from tests.aggregation.gradients import diagonal, gramian, make, random_jacobian


def test_orthogonal_gradients_of_one_length_give_mean() -> None:
    assert make(ConFIG, 3).weights(diagonal(1, 1, 1)).tolist() == pytest.approx([1 / 3] * 3)


def test_orthogonal_gradients_get_one_cosine_with_the_update() -> None:
    # Norms 1 and 2: the direction (1, 1) / sqrt(2), as long as the mean of the projections 1 / sqrt(2), 2 / sqrt(2).
    assert make(ConFIG, 2).weights(diagonal(1, 4)).tolist() == pytest.approx([0.75, 0.375])


@pytest.mark.parametrize("num_tasks", [2, 5, 20])
def test_the_update_is_that_of_torchjd_by_the_number_of_tasks(num_tasks: int) -> None:
    for seed in range(5):
        jacobian = random_jacobian(num_tasks, 3 * num_tasks, seed)
        expected = torchjd.aggregation.ConFIG()(jacobian) / num_tasks
        torch.testing.assert_close(make(ConFIG, num_tasks).weights(gramian(jacobian)) @ jacobian, expected)


def test_opposite_gradients_give_no_update() -> None:
    jacobian = torch.tensor([[1.0, 2.0], [-2.0, -4.0]], dtype=torch.float64)
    assert (make(ConFIG, 2).weights(gramian(jacobian)) @ jacobian).norm() < 1e-9
