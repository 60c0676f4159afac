"""What every registered aggregator does alike. Shapes: M tasks, P parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl.aggregation import aggregators
from mtrl.seeding import torch_stream
from mtrl.testing.aggregator import LinearProblem
from mtrl.types import Batch

NAMES = aggregators.names()
RANDOM = {"rlw", "pcgrad", "gradvac", "graddrop", "great"}
"""Those that draw, whose weights depend on the order of the tasks."""


def make(name: str, num_tasks: int) -> Any:
    cls = aggregators.get(name)
    return cls(num_tasks, cls.Config(), torch_stream(1, "aggregator"))


def update(aggregator: Any, problem: LinearProblem) -> tuple[Tensor, Tensor | None]:
    """Gradient (P,) and weights (M,) of an update."""
    result = aggregator.backward(problem.loss, problem.batch, problem.parameters)
    gradient = torch.cat([parameter.grad.flatten() for parameter in problem.parameters.values()])
    aggregator.after_step(problem.loss, problem.batch, problem.parameters)
    return gradient, result.weights


def in_order(problem: LinearProblem, order: Sequence[int]) -> LinearProblem:
    """The problem with its tasks in another order."""
    other = LinearProblem([problem.batch.counts[task] for task in order])
    other.parameters = {name: value.detach().clone().requires_grad_() for name, value in problem.parameters.items()}
    rows = torch.cat([(problem.batch.task_ids == task).nonzero().flatten() for task in order])
    moved: Batch = problem.batch.map_columns(lambda value: value[rows])
    other.batch = replace(
        moved,
        task_ids=torch.tensor([order.index(int(task)) for task in moved.task_ids]),
        shares=problem.batch.shares[list(order)],
        counts=tuple(problem.batch.counts[task] for task in order),
    )
    return other


def assert_parallel(found: Tensor, expected: Tensor, margin: float = 1e-4) -> None:
    assert torch.cosine_similarity(found, expected, dim=0).item() == pytest.approx(1, abs=margin)


@pytest.mark.parametrize("name", NAMES)
def test_tasks_with_one_gradient_get_that_of_mean(name: str) -> None:
    problem = LinearProblem((4, 4, 4))
    columns = {
        key: value if key == "task_ids" else value[:4].repeat(3, *(1 for _ in value.shape[1:]))
        for key, value in problem.batch.columns().items()
    }
    problem.batch = problem.batch.with_columns(columns)
    found, weights = update(make(name, 3), problem)
    expected, _ = update(make("mean", 3), problem)
    assert_parallel(found, expected)
    if name != "db-mtl":  # takes the logarithms' gradients
        assert found.norm() >= 0.99 * expected.norm()
    if weights is not None and name not in RANDOM:
        torch.testing.assert_close(weights / weights.mean(), torch.ones(3), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("counts", [(4,), (0, 5, 0)], ids=str)
def test_a_task_alone_gets_its_own_gradient(name: str, counts: Sequence[int]) -> None:
    aggregator = make(name, len(counts))
    for seed in range(1, 4):
        found, _ = update(aggregator, LinearProblem(counts, seed))
        expected, _ = update(make("mean", len(counts)), LinearProblem(counts, seed))
        assert_parallel(found, expected)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in RANDOM])
@pytest.mark.parametrize("counts", [(4, 4, 4), (5, 0, 2)], ids=str)
def test_the_order_of_the_tasks_does_not_matter(name: str, counts: Sequence[int]) -> None:
    order = (2, 0, 1)
    plain, moved = make(name, 3), make(name, 3)
    for seed in range(1, 4):
        problem = LinearProblem(counts, seed)
        gradient, weights = update(plain, problem)
        other_gradient, other_weights = update(moved, in_order(problem, order))
        torch.testing.assert_close(other_gradient, gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max()))
        if weights is not None:
            torch.testing.assert_close(other_weights, weights[list(order)], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_without_loss_leaves_the_direction_to_the_others(name: str) -> None:
    if name in RANDOM:
        pytest.skip("draws for every task")
    found, _ = update(make(name, 3), LinearProblem((4, 4, 4), scales=(1.0, 0.0, 1.0)))
    problem = LinearProblem((4, 4, 4), scales=(1.0, 0.0, 1.0))
    kept = torch.tensor([0, 1, 2, 3, 8, 9, 10, 11])
    problem.batch = replace(
        problem.batch.map_columns(lambda value: value[kept]), counts=(4, 0, 4), shares=torch.tensor([0.5, 0.0, 0.5])
    )
    expected, _ = update(make(name, 3), problem)
    assert_parallel(found, expected)
