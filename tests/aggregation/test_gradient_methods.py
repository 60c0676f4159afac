"""What all gradient methods have in common, on the Gramian. Shapes: M tasks, P parameters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtrl.aggregation import JacobianAggregator, PresentTasks, aggregators
from tests.aggregation.gradients import CONFLICT, gramian, make, random_jacobian

METHODS = {name: cls for name, cls in aggregators.items() if issubclass(cls, JacobianAggregator)}
RANDOM = {"pcgrad", "gradvac"}  # in random order
CONFLICT_FREE = ["upgrad", "dualproj", "gem", "mgda", "nash-mtl", "fairgrad", "config"]
OPPOSITE = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)


def weights(name: str, gramian: Tensor, losses: Tensor | None = None) -> Tensor:
    num_tasks = len(gramian)
    gauge = torch.ones(num_tasks, dtype=torch.float64) if losses is None else losses
    tasks = PresentTasks(torch.arange(num_tasks), gauge)
    return make(METHODS[name], num_tasks).task_weights(gramian, tasks)


def test_these_are_the_methods() -> None:
    assert {
        *("mgda", "cagrad", "nash-mtl", "fairgrad", "imtl-g", "aligned-mtl", "config", "upgrad", "dualproj", "gradvac"),
        *("gem", "a-gem", "pcgrad", "pareto-mtl"),
    } <= METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_equal_gradients_give_mean(name: str, num_tasks: int) -> None:
    jacobian = torch.tensor([[3.0, -4.0]], dtype=torch.float64).expand(num_tasks, 2)
    torch.testing.assert_close(weights(name, gramian(jacobian)) @ jacobian, jacobian[0], rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("name", METHODS)
def test_one_task_keeps_its_gradient(name: str) -> None:
    assert weights(name, torch.tensor([[5.0]], dtype=torch.float64)).tolist() == pytest.approx([1])


@pytest.mark.parametrize("name", sorted(METHODS.keys() - RANDOM))
def test_a_permutation_of_the_tasks_permutes_the_weights(name: str) -> None:
    products = gramian(random_jacobian(6, 30, seed=1))
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    losses = torch.arange(1.0, 7.0, dtype=torch.float64)
    expected = weights(name, products, losses)[order]
    found = weights(name, products[order][:, order], losses[order])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_the_unit_of_the_gradients_does_not_change_the_weights(name: str, scale: float) -> None:
    products = gramian(random_jacobian(6, 30, seed=2))
    torch.testing.assert_close(weights(name, scale * products), weights(name, products), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize(
    "jacobian",
    [
        OPPOSITE,
        OPPOSITE * torch.tensor([[1.0], [1e-6]], dtype=torch.float64),
        OPPOSITE.repeat(3, 1),
        CONFLICT.repeat(2, 1),
        random_jacobian(50, 20, seed=3),
        random_jacobian(50, 200, seed=3) * torch.logspace(-6, 6, 50, dtype=torch.float64)[:, None],
        random_jacobian(10, 200, seed=3).float().repeat(2, 1),
    ],
    ids=["opposite", "opposite of unequal length", "many opposite", "repeated", "dependent", "unequal", "float32"],
)
def test_weights_are_finite_for_gradients_that_cancel_or_depend_on_each_other(
    name: str, jacobian: Tensor, scale: float
) -> None:
    found = weights(name, scale * gramian(jacobian).double())
    assert found.isfinite().all()
    assert found.shape == (len(jacobian),)
    longest = jacobian.double().norm(dim=1).amax()
    assert (found @ jacobian.double()).norm() <= (1 + 1e-6) * longest


@pytest.mark.parametrize("name", CONFLICT_FREE)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("num_tasks", "num_parameters"), [(2, 4), (10, 12), (50, 100)])
def test_the_update_conflicts_with_no_task(name: str, seed: int, num_tasks: int, num_parameters: int) -> None:
    jacobian = random_jacobian(num_tasks, num_parameters, seed)
    improvements = jacobian @ (weights(name, gramian(jacobian)) @ jacobian)
    assert improvements.amin() >= -1e-7 * improvements.abs().amax()
    assert improvements.amax() > 0


@pytest.mark.parametrize("name", METHODS)
def test_descent_on_two_paraboloids_ends_between_their_minima(name: str) -> None:
    # Losses |x - a|^2 / 2 and |x - b|^2: the Pareto set is the segment from a to b, here part of the first axis.
    minima = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    curvatures = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    aggregator = make(METHODS[name], 2)
    x = torch.tensor([0.5, 1.0, -2.0], dtype=torch.float64)
    for _ in range(150):
        jacobian = curvatures * (x - minima)
        losses = (jacobian * (x - minima)).sum(1) / 2
        x = x - 0.2 * aggregator.task_weights(gramian(jacobian), PresentTasks(torch.arange(2), losses)) @ jacobian
    assert x[1:].norm() < 0.05
    assert -1.01 <= x[0] <= 1.01
