"""Losses per task, and the gradient of each. Shapes: M tasks, B batch, P parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from mtrl.networks import Output
from mtrl.types import Batch

Parameters = Mapping[str, Tensor]


class TaskLosses(NamedTuple):
    """The result of a loss function, and of a step on it."""

    losses: Tensor  # (M,) means within each task; 0 for a task without samples
    metrics: Mapping[str, Tensor] = {}  # detached, leading dimension B
    features: Tensor | None = None  # (B, F) of the encoder, for auxiliary losses
    outputs: Sequence[Output] = ()  # of the networks, whose own auxiliary losses are added
    gauge: Tensor | None = None  # (M,) losses that are never negative, by which the speed of learning is measured
    weights: Tensor | None = None  # (M,) of the tasks' losses, which an aggregator chose; mean 1, or nearly so


LossFunction = Callable[[Parameters, Batch], TaskLosses]
"""Pure: its randomness is in the batch (`Batch.noise`)."""


def task_gradients(
    loss_fn: LossFunction, batch: Batch, parameters: Parameters, num_tasks: int, vectorized: bool = True
) -> tuple[dict[str, Tensor], TaskLosses]:
    """Gradient of every task's own loss: ({name: (M, *shape)}, losses).

    `batch` must be sorted by task. Tasks without samples have loss and gradient 0. `vectorized` False: without `vmap`.
    """
    detached: Parameters = {name: parameter.detach() for name, parameter in parameters.items()}
    if vectorized and len(set(batch.counts)) == 1:
        return _gradients_of_equal_shares(loss_fn, batch, detached, num_tasks)
    gradients = {name: value.new_zeros(num_tasks, *value.shape) for name, value in detached.items()}
    per_task: list[dict[str, Tensor]] = []
    metrics: list[Mapping[str, Tensor]] = []
    start = 0
    tasks = torch.eye(num_tasks, device=batch.reward.device)
    for task, count in enumerate(batch.counts):
        if count:
            own = _slice(batch, start, start + count)
            task_gradient, (task_losses, task_metrics) = grad(_own_loss(loss_fn, own, tasks[task]), has_aux=True)(
                detached
            )
            for name, value in task_gradient.items():
                gradients[name][task] = value
            per_task.append(task_losses)
            metrics.append(task_metrics)
        start += count
    sums = {name: torch.stack([own[name] for own in per_task]).sum(0) for name in per_task[0]}
    joined = {name: torch.cat([own[name] for own in metrics]) for name in metrics[0]}
    return gradients, TaskLosses(sums["losses"], joined, gauge=sums.get("gauge"))


def _slice(batch: Batch, start: int, stop: int) -> Batch:
    return batch.map_columns(lambda value: value[start:stop])


def _own_loss(
    loss_fn: LossFunction, batch: Batch, own: Tensor
) -> Callable[[Parameters], tuple[Tensor, tuple[dict[str, Tensor], dict[str, Tensor]]]]:
    """The loss of the task that `own` (M,) picks, with its losses and gauge (M,) by name and the metrics beside it.

    Picked, because an architecture's auxiliary losses may be there for every task, whichever samples it sees.
    """

    def loss(parameters: Parameters) -> tuple[Tensor, tuple[dict[str, Tensor], dict[str, Tensor]]]:
        result = loss_fn(parameters, batch)
        per_task = {"losses": result.losses, "gauge": result.gauge}
        picked = {name: values.detach() * own for name, values in per_task.items() if values is not None}
        return (result.losses * own).sum(), (picked, dict(result.metrics))

    return loss


def _gradients_of_equal_shares(
    loss_fn: LossFunction, batch: Batch, parameters: Parameters, num_tasks: int
) -> tuple[dict[str, Tensor], TaskLosses]:
    """One vectorised pass: columns (B, ...) become (M, B/M, ...)."""
    sliced = batch.map_columns(lambda value: value.unflatten(0, (num_tasks, -1)))

    def task_gradient(columns: dict[str, Tensor], own: Tensor) -> tuple[dict[str, Tensor], tuple[Any, Any]]:
        return grad(_own_loss(loss_fn, batch.with_columns(columns), own), has_aux=True)(parameters)

    tasks = torch.eye(num_tasks, device=batch.reward.device)
    gradients, (losses, metrics) = vmap(task_gradient)(sliced.columns(), tasks)
    sums = {name: values.sum(0) for name, values in losses.items()}
    joined = {name: value.flatten(0, 1) for name, value in metrics.items()}
    return gradients, TaskLosses(sums["losses"], joined, gauge=sums.get("gauge"))
