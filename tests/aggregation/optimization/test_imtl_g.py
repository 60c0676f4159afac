"""IMTL-G, against numbers worked by hand and torchjd."""

from __future__ import annotations

import pytest
import torch
import torchjd.aggregation

from mtrl.aggregation.optimization.imtl_g import IMTLG
from tests.aggregation.gradients import diagonal, gramian, make, random_jacobian


def test_orthogonal_gradients_are_weighted_by_their_inverse_norms() -> None:
    assert make(IMTLG, 2).weights(diagonal(1, 4)).tolist() == pytest.approx([2 / 3, 1 / 3])


def test_the_update_has_the_same_projection_on_every_gradient() -> None:
    jacobian = random_jacobian(8, 20, seed=1)
    weights = make(IMTLG, 8).weights(gramian(jacobian))
    projections = torch.nn.functional.normalize(jacobian, dim=1) @ (weights @ jacobian)
    assert weights.sum().item() == pytest.approx(1)
    torch.testing.assert_close(projections, projections[:1].expand(8))


@pytest.mark.parametrize("num_tasks", [2, 5, 20])
def test_the_weights_are_those_of_torchjd(num_tasks: int) -> None:
    oracle = torchjd.aggregation.IMTLGWeighting()
    for seed in range(5):
        products = gramian(random_jacobian(num_tasks, 3 * num_tasks, seed))
        torch.testing.assert_close(make(IMTLG, num_tasks).weights(products), oracle(products), rtol=1e-6, atol=1e-9)
