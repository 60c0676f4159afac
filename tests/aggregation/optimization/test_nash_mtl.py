"""Nash-MTL and FairGrad, against numbers worked by hand, their equations and torchjd."""

from __future__ import annotations

import pytest
import torch
import torchjd.aggregation

from mtrl.aggregation.optimization.nash_mtl import FairGrad, NashMTL
from tests.aggregation.gradients import diagonal, gramian, make, random_jacobian


def test_nash_weighs_orthogonal_gradients_by_their_inverse_norms() -> None:
    # G a = 1/a has the solution (1, 1/2).
    assert make(NashMTL, 2).weights(diagonal(1, 4)).tolist() == pytest.approx([2 / 3, 1 / 3])


def test_the_unit_of_a_task_does_not_change_its_part_of_the_nash_solution() -> None:
    jacobian = random_jacobian(5, 10, seed=1)
    units = torch.tensor([[1e-3], [1.0], [7.0], [1e4], [1.0]], dtype=torch.float64)
    updates = [make(NashMTL, 5).weights(gramian(own)) @ own for own in (jacobian, units * jacobian)]
    torch.testing.assert_close(*(update / update.norm() for update in updates), rtol=1e-8, atol=1e-8)


def test_fairgrad_of_orthogonal_gradients_is_as_by_hand() -> None:
    # alpha = 2: a_i n_i^2 = a_i^(-1/2), so a_i = n_i^(-4/3).
    second = 2 ** (-4 / 3)
    expected = [1 / (1 + second), second / (1 + second)]
    assert make(FairGrad, 2, alpha=2.0).weights(diagonal(1, 4)).tolist() == pytest.approx(expected)


def test_fairgrad_with_alpha_one_is_nash() -> None:
    products = gramian(random_jacobian(5, 10, seed=2))
    torch.testing.assert_close(make(FairGrad, 5, alpha=1.0).weights(products), make(NashMTL, 5).weights(products))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_fairgrad_is_torchjd_scaled_to_sum_one(alpha: float) -> None:
    for seed in range(3):
        products = gramian(random_jacobian(4, 10, seed))
        expected = torchjd.aggregation.FairGradWeighting(alpha=alpha)(products / products.diagonal().mean())
        found = make(FairGrad, 4, alpha=alpha).weights(products)
        torch.testing.assert_close(found, expected / expected.sum(), rtol=1e-3, atol=1e-4)
