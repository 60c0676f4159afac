"""Diagnostics of a parameter group: weights of the tasks, conflict of their gradients. Shapes: M tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from mtrl.aggregation import Mean, Parameters, TaskLosses
from mtrl.optim.parameter_group import ParameterGroup
from mtrl.types import Batch
from tests.agents.constants import batch_of


class Weight(nn.Module):
    """Two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))


def group_of(num_tasks: int) -> ParameterGroup:
    return ParameterGroup(
        "critic",
        Weight(),
        Mean(num_tasks, Mean.Config(), torch.Generator()),
        task_names=[str(task) for task in range(num_tasks)],
        learning_rate=0.1,
        max_grad_norm=1.0,
    )


def linear_loss(directions: Sequence[Sequence[float]]) -> object:
    """Task losses whose gradients are these."""

    def loss(parameters: Parameters, batch: Batch) -> TaskLosses:
        present = torch.zeros(len(directions)).index_fill(0, batch.task_ids, 1.0)
        return TaskLosses(present * (torch.tensor(directions) @ parameters["weight"]))

    return loss


def test_cosines_and_conflicts_are_those_of_the_task_gradients() -> None:
    group = group_of(3)
    group.keeps_last_batch = True
    group.step(linear_loss([[1.0, 0.0], [0.0, 2.0], [-3.0, 3.0]]), batch_of([0, 1, 2]))
    found = group.conflict()
    root = math.sqrt(0.5)
    expected = torch.tensor([[1.0, 0.0, -root], [0.0, 1.0, root], [-root, root, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(found["critic/cosine"], expected)
    assert found["critic/conflict_rate"].item() == pytest.approx(1 / 3)


def test_tasks_without_samples_have_no_cosine_and_no_weight() -> None:
    group = group_of(3)
    group.keeps_last_batch = True
    group.step(linear_loss([[1.0, 0.0], [0.0, 2.0], [-3.0, 3.0]]), batch_of([0, 0, 2]))
    found = group.conflict()
    assert found["critic/cosine"][1].isnan().all()
    assert found["critic/conflict_rate"].item() == 1.0
    weights: Tensor = group.task_weights()["critic/task_weight"]
    assert weights.isnan().tolist() == [False, True, False]
    assert weights[[0, 2]].tolist() == [1.0, 1.0]


def test_one_task_has_no_conflict() -> None:
    group = group_of(1)
    group.keeps_last_batch = True
    group.step(linear_loss([[1.0, 0.0]]), batch_of([0], num_tasks=1))
    assert group.conflict()["critic/conflict_rate"].item() == 0.0


def test_nothing_is_kept_unless_it_is_asked_for() -> None:
    group = group_of(2)
    assert group.task_weights() == {}
    group.step(linear_loss([[1.0, 0.0], [0.0, 2.0]]), batch_of([0, 1], num_tasks=2))
    assert group.conflict() == {}


def test_measuring_leaves_gradients_and_parameters_alone() -> None:
    group = group_of(2)
    group.keeps_last_batch = True
    group.step(linear_loss([[1.0, 0.0], [0.0, 2.0]]), batch_of([0, 1], num_tasks=2))
    weight = group.parameters["weight"]
    before, gradient = weight.detach().clone(), weight.grad
    group.conflict()
    assert torch.equal(weight, before)
    assert weight.grad is gradient
