"""Solutions of the small convex problems, by their optimality conditions. Shapes: M tasks, K problems."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import nnls

from mtrl.aggregation.solvers import (
    definite_cosines,
    fair_weights,
    farthest_improvement,
    nonnegative_minimum,
    shortest_in_hull,
)
from tests.aggregation.gradients import diagonal, gramian, random_jacobian

SIZES = [(2, 40), (5, 40), (20, 400), (50, 1000), (50, 60)]


@pytest.mark.parametrize(("num_tasks", "num_parameters"), SIZES)
def test_nonnegative_minima_are_those_of_scipy(num_tasks: int, num_parameters: int) -> None:
    _, matrix = definite_cosines(gramian(random_jacobian(num_tasks, num_parameters, seed=1)))
    found = nonnegative_minimum(matrix, matrix)
    root = torch.linalg.cholesky(matrix).T
    for row, target in zip(found, root.T, strict=True):
        expected = torch.from_numpy(nnls(root.numpy(), -target.numpy())[0])
        torch.testing.assert_close(row, expected, rtol=1e-7, atol=1e-9)


def test_a_nonnegative_minimum_without_pull_is_zero() -> None:
    assert nonnegative_minimum(diagonal(1, 1), torch.zeros(1, 2, dtype=torch.float64)).tolist() == [[0, 0]]


@pytest.mark.parametrize(("num_tasks", "num_parameters"), SIZES)
@pytest.mark.parametrize("mean", [0.0, 0.3])
def test_the_shortest_vector_has_its_least_product_with_the_gradients_it_is_made_of(
    num_tasks: int, num_parameters: int, mean: float
) -> None:
    products = gramian(random_jacobian(num_tasks, num_parameters, seed=2, mean=mean))
    weights = shortest_in_hull(products)
    squared_length = weights @ products @ weights
    assert weights.amin() >= 0
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    slack = (products @ weights - squared_length) / squared_length
    assert slack.amin() > -1e-7
    assert (weights * slack).abs().amax() < 1e-7


@pytest.mark.parametrize(("num_tasks", "num_parameters"), SIZES)
@pytest.mark.parametrize("radius", [0.1, 0.5, 0.99])
def test_the_farthest_improvement_uses_its_radius_on_the_tasks_that_improve_least(
    num_tasks: int, num_parameters: int, radius: float
) -> None:
    products = gramian(random_jacobian(num_tasks, num_parameters, seed=3))
    v = farthest_improvement(products, radius)
    mean = torch.full_like(v, 1 / num_tasks)
    length = (mean @ products @ mean).sqrt()
    assert v.amin() >= 0
    assert (v @ products @ v).sqrt().item() == pytest.approx(radius * length.item(), rel=1e-9)
    improvements = products @ (mean + v)
    assert ((improvements - improvements.amin())[v > 0] <= 1e-6 * improvements.abs().amax()).all()


@pytest.mark.parametrize(("num_tasks", "num_parameters"), SIZES)
@pytest.mark.parametrize("exponent", [0.2, 0.5, 1.0, 2.0])
def test_fair_weights_solve_their_equation(num_tasks: int, num_parameters: int, exponent: float) -> None:
    products = gramian(random_jacobian(num_tasks, num_parameters, seed=4))
    a = fair_weights(products, exponent)
    assert a.amin() > 0
    # a is a solution for some multiple of the gradients
    ratio = products @ a / a**-exponent
    torch.testing.assert_close(ratio, ratio.mean().expand(num_tasks), rtol=1e-10, atol=0.0)
