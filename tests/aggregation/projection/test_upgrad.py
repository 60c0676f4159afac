"""Projections onto directions without conflict, against numbers worked by hand and torchjd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchjd.aggregation
from scipy.optimize import nnls
from torch import Tensor
from torchjd.linalg import DualConeProjector

from mtrl.aggregation import JacobianAggregator
from mtrl.aggregation.projection.upgrad import DualProj, UPGrad
from tests.aggregation.gradients import CONFLICT, gramian, make, random_jacobian


class ScipyProjector(DualConeProjector):
    """torchjd's own projectors need solvers under other licences."""

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        root = np.linalg.cholesky(G.numpy()).T
        return U + torch.from_numpy(np.stack([nnls(root, -root @ u)[0] for u in U.reshape(-1, len(G)).numpy()])).view(
            U.shape
        )


def test_upgrad_projects_each_gradient() -> None:
    # (1, 0) becomes (0.8, 0.4), orthogonal to (-0.5, 1), which becomes (0, 1); their mean.
    jacobian = torch.tensor([[1.0, 0.0], [-0.5, 1.0]], dtype=torch.float64)
    assert (make(UPGrad, 2).weights(gramian(jacobian)) @ jacobian).tolist() == pytest.approx([0.4, 0.7])


def test_dualproj_keeps_a_mean_that_conflicts_with_no_task() -> None:
    assert make(DualProj, 2).weights(gramian(CONFLICT)).tolist() == pytest.approx([0.5, 0.5])


def test_dualproj_projects_a_mean_that_conflicts() -> None:
    # The mean (-1, 0.5) conflicts with (1, 0): what is left is (0, 0.5).
    jacobian = torch.tensor([[1.0, 0.0], [-3.0, 1.0]], dtype=torch.float64)
    weights = make(DualProj, 2).weights(gramian(jacobian))
    assert weights.tolist() == pytest.approx([1.5, 0.5])
    assert (weights @ jacobian).tolist() == pytest.approx([0, 0.5])


@pytest.mark.parametrize("cls", [UPGrad, DualProj])
@pytest.mark.parametrize("num_tasks", [2, 5, 50])
def test_the_weights_are_those_of_torchjd(cls: type[JacobianAggregator], num_tasks: int) -> None:
    oracle = getattr(torchjd.aggregation, f"{cls.__name__}Weighting")(projector=ScipyProjector())
    for seed in range(5):
        products = gramian(random_jacobian(num_tasks, 2 * num_tasks, seed))
        torch.testing.assert_close(make(cls, num_tasks).weights(products), oracle(products), rtol=1e-6, atol=1e-7)
