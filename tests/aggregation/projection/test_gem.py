"""Gradient episodic memory, against numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from mtrl.aggregation.projection.gem import AGEM, GEM
from tests.aggregation.gradients import CONFLICT, gramian, make


def test_gem_keeps_a_mean_that_conflicts_with_no_task() -> None:
    # The mean of (1, 0) and (-1, 1) is (0, 1/2), whose products with them are 0 and 1/2.
    assert make(GEM, 2).weights(gramian(CONFLICT)).tolist() == pytest.approx([0.5, 0.5])


def test_gem_projects_a_mean_that_conflicts() -> None:
    jacobian = torch.tensor([[1.0, 0.0], [-3.0, 1.0]], dtype=torch.float64)
    assert (make(GEM, 2).weights(gramian(jacobian)) @ jacobian).tolist() == pytest.approx([0, 0.5])


def test_a_gem_projects_each_gradient_against_the_other() -> None:
    # (1, 0) becomes (1/2, 1/2) and (-1, 1) becomes (0, 1).
    weights = make(AGEM, 2).weights(gramian(CONFLICT))
    assert (weights @ CONFLICT).tolist() == pytest.approx([0.25, 0.75])


def test_a_gem_projects_against_the_mean_of_the_others() -> None:
    # For the first task that mean is (0, 1), without conflict; for the others (0.5, 0.5) and (1.5, -0.5).
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    jacobian[2] = torch.tensor([1.0, 1.0])
    expected = torch.stack(
        [
            torch.tensor([1.0, 0.0]),
            torch.tensor([-1.0, 1.0]) + 0.5 / 1.25 * torch.tensor([1.0, 0.5]),
            torch.tensor([1.0, 1.0]),
        ]
    ).double()
    found = make(AGEM, 3).weights(gramian(jacobian)) @ jacobian
    torch.testing.assert_close(found, expected.mean(0))


def test_a_gem_leaves_a_task_alone_whose_others_cancel() -> None:
    jacobian = torch.tensor([[0.1, 0.2], [0.3, 0.7], [-0.3, -0.7]], dtype=torch.float64)
    weights = make(AGEM, 3).weights(gramian(jacobian))
    assert weights.abs().amax() < 10
