"""Conflict-averse gradient descent, against numbers worked by hand and the best of a grid."""

from __future__ import annotations

import pytest
import torch

from mtrl.aggregation.optimization.cagrad import CAGrad
from tests.aggregation.gradients import diagonal, gramian, make, random_jacobian


def test_without_a_distance_it_is_mean() -> None:
    weights = make(CAGrad, 3, c=0.0).weights(gramian(random_jacobian(3, 5, seed=1)))
    assert weights.tolist() == pytest.approx([1 / 3] * 3)


def test_the_whole_distance_goes_to_a_task_that_stays_the_worst() -> None:
    # The mean of (1, 0) and (0, 4) is (1/2, 2), of norm sqrt(4.25); their products with it are 1/2 and 8.
    weights = make(CAGrad, 2, c=0.5).weights(diagonal(1, 16))
    assert weights.tolist() == pytest.approx([(0.5 + 0.5 * 4.25**0.5) / 1.5, 0.5 / 1.5])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
def test_with_two_tasks_it_is_the_best_of_a_grid(seed: int, c: float) -> None:
    # The dual of the paper: w on the simplex minimises w'Gu + c sqrt(u'Gu) sqrt(w'Gw), and a = u + c r w / sqrt(w'Gw).
    jacobian = random_jacobian(2, 3, seed)
    products = gramian(jacobian)
    mean = torch.full((2,), 0.5, dtype=torch.float64)
    radius = c * (mean @ products @ mean).sqrt()
    first = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    grid = torch.stack((first, 1 - first), 1)
    lengths = ((grid @ products) * grid).sum(1).sqrt()
    best = (grid @ products @ mean + radius * lengths).argmin()
    expected = (mean + radius * grid[best] / lengths[best]) / (1 + c)
    torch.testing.assert_close(make(CAGrad, 2, c=c).weights(products), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_tasks", [3, 10, 50])
def test_no_update_at_its_distance_improves_the_worst_task_more(num_tasks: int) -> None:
    # By duality: min_w of the paper's function is the largest worst improvement.
    products = gramian(random_jacobian(num_tasks, 3 * num_tasks, seed=2))
    weights = 1.5 * make(CAGrad, num_tasks, c=0.5).weights(products)
    mean = torch.full_like(weights, 1 / num_tasks)
    w = (weights - mean) / (weights - mean).sum()
    radius = 0.5 * (mean @ products @ mean).sqrt()
    upper_bound = w @ products @ mean + radius * (w @ products @ w).sqrt()
    torch.testing.assert_close((products @ weights).amin(), upper_bound, rtol=1e-6, atol=1e-9)
