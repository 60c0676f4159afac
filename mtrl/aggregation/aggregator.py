"""From per-task losses to one gradient: the interface of every loss weighting and gradient method.

A loss has one path: `loss_of(parameters, batch)`, a pure function whose noise travels in the batch. Methods that need
one gradient per task get them from a single pass over the task-sorted batch (`vmap(grad)` over equal shares), never
from M passes over all of it.

Shapes: M tasks, B batch, P parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from mtrl.equal_shares import in_equal_shares
from mtrl.registry import Registry
from mtrl.types import Batch, State

Parameters = Mapping[str, Tensor]


class TaskLosses(NamedTuple):
    """What a loss function returns."""

    losses: Tensor  # (M,) means within each task; 0 for a task without rows
    rows: Mapping[str, Tensor] = {}  # detached by-products, leading dimension B


LossFunction = Callable[[Parameters, Batch], TaskLosses]


def mean_per_task(values: Tensor, task_ids: Tensor, num_tasks: int) -> Tensor:
    """Mean of values (B, ...) within each task (M, ...); 0 for a task without rows."""
    if in_equal_shares(task_ids, num_tasks):
        by_task = values.reshape(num_tasks, -1, *values.shape[1:])
        return by_task.sum(1) / by_task.shape[1]
    # Not a product with a (B, M) matrix: there a NaN of one task would be every task's.
    zeros = values.new_zeros(num_tasks, *values.shape[1:])
    counts = zeros.index_add(0, task_ids, torch.ones_like(values))
    return zeros.index_add(0, task_ids, values) / counts.clamp(min=1)


def means_per_task(columns: Mapping[str, Tensor], task_ids: Tensor, num_tasks: int) -> dict[str, Tensor]:
    """`mean_per_task` of several values (B, ...) in one pass: of small batches, the calls are what costs."""
    if not columns:
        return {}
    flat = [values.reshape(len(values), -1) for values in columns.values()]
    means = mean_per_task(torch.cat(flat, dim=1), task_ids, num_tasks).split([part.shape[1] for part in flat], dim=1)
    return {
        name: part.reshape(num_tasks, *values.shape[1:])
        for (name, values), part in zip(columns.items(), means, strict=True)
    }


class GradientAggregator(ABC):
    """Combines the tasks' losses or gradients. One instance per optimised group."""

    vectorized: bool = True
    """Whether per-task gradients may be taken in one `vmap` pass; set by the group from its modules."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters."""

    def __init__(self, num_tasks: int, config: Any, generator: torch.Generator):
        """`generator` is this instance's own stream (CPU)."""
        self.num_tasks = num_tasks
        self.generator = generator

    @abstractmethod
    def backward(self, loss_of: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        """Writes `.grad` of every tensor in `parameters`, and of no other; returns the detached losses."""

    def state(self) -> State:
        """What a restart needs."""
        return {"generator": self.generator.get_state()}

    def load_state(self, state: State) -> None:
        """Takes up a state written by `state`."""
        self.generator.set_state(state["generator"])


aggregators: Registry[GradientAggregator] = Registry("aggregator")


@aggregators.register("mean")
class Mean(GradientAggregator):
    """The tasks' losses weighted by their shares of the batch: one backward pass."""

    def backward(self, loss_of: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        result = loss_of(parameters, batch)
        total = (result.losses * batch.shares).sum()
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True, materialize_grads=True)
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        return TaskLosses(result.losses.detach(), result.rows)


class JacobianAggregator(GradientAggregator):
    """Methods that choose one weight per task gradient from their inner products.

    Row i of the Jacobian is the gradient of M * share_i * loss_i, so that equal weights 1/M give `mean`.
    """

    @abstractmethod
    def weights(self, gramian: Tensor) -> Tensor:
        """Inner products (M, M) of the task gradients -> weights (M,), of their dtype and on their device."""

    # `torch.func.grad` differentiates all the same. Without it, the gradients would themselves be differentiable by
    # what else the loss reads (the actor's by the critics), and every update's graph would stay in memory.
    @torch.no_grad()
    def backward(self, loss_of: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        jacobian, result = task_gradients(loss_of, batch, parameters, self.num_tasks, self.vectorized)
        scale = self.num_tasks * batch.shares
        rows = [gradient.flatten(1) for gradient in jacobian.values()]  # each (M, P_k)
        gramian = torch.outer(scale, scale) * sum(row @ row.T for row in rows)
        weights = self.weights(gramian) * scale
        for name, row in zip(jacobian, rows, strict=True):
            parameters[name].grad = (weights @ row).view_as(parameters[name])
        return result


def task_gradients(
    loss_of: LossFunction, batch: Batch, parameters: Parameters, num_tasks: int, vectorized: bool = True
) -> tuple[dict[str, Tensor], TaskLosses]:
    """Gradient of every task's own loss: ({name: (M, *shape)}, losses).

    `batch` must be sorted by task. Tasks without rows have loss and gradient 0. `vectorized` False: never use `vmap`.
    """
    detached: Parameters = {name: parameter.detach() for name, parameter in parameters.items()}
    if vectorized and len(set(batch.counts)) == 1:
        return _gradients_of_equal_shares(loss_of, batch, detached, num_tasks)
    gradients = {name: value.new_zeros(num_tasks, *value.shape) for name, value in detached.items()}
    losses = torch.zeros(num_tasks, device=batch.reward.device)
    rows: list[Mapping[str, Tensor]] = []
    start = 0
    tasks = torch.eye(num_tasks, device=batch.reward.device)
    for task, count in enumerate(batch.counts):
        if count:
            piece = _piece(batch, start, start + count)
            of_task, (of_piece, kept) = grad(_own_loss(loss_of, piece, tasks[task]), has_aux=True)(detached)
            for name, value in of_task.items():
                gradients[name][task] = value
            losses += of_piece
            rows.append(kept)
        start += count
    names = rows[0].keys()
    return gradients, TaskLosses(losses, {name: torch.cat([kept[name] for kept in rows]) for name in names})


def _piece(batch: Batch, start: int, stop: int) -> Batch:
    return batch.map_rows(lambda value: value[start:stop])


def _own_loss(
    loss_of: LossFunction, batch: Batch, own: Tensor
) -> Callable[[Parameters], tuple[Tensor, tuple[Tensor, Any]]]:
    """The loss of the task that `own` (M,) picks, with (M,) losses and by-products beside it.

    Picked, because an architecture's auxiliary losses may be there for every task, whichever rows it sees.
    """

    def loss(parameters: Parameters) -> tuple[Tensor, tuple[Tensor, Any]]:
        result = loss_of(parameters, batch)
        return (result.losses * own).sum(), (result.losses.detach() * own, dict(result.rows))

    return loss


def _gradients_of_equal_shares(
    loss_of: LossFunction, batch: Batch, parameters: Parameters, num_tasks: int
) -> tuple[dict[str, Tensor], TaskLosses]:
    """One vectorised pass: rows (B, ...) become (M, B/M, ...)."""
    sliced = batch.map_rows(lambda value: value.unflatten(0, (num_tasks, -1)))

    def of_one_task(rows: dict[str, Tensor], own: Tensor) -> tuple[dict[str, Tensor], tuple[Tensor, Any]]:
        return grad(_own_loss(loss_of, batch.with_row_tensors(rows), own), has_aux=True)(parameters)

    tasks = torch.eye(num_tasks, device=batch.reward.device)
    gradients, (losses, kept) = vmap(of_one_task)(sliced.row_tensors(), tasks)
    rows = {name: value.flatten(0, 1) for name, value in kept.items()}
    return gradients, TaskLosses(losses.sum(0), rows)
