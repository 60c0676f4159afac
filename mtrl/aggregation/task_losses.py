"""Losses per task, and the gradient of each. Shapes: M tasks, B batch, P parameters."""

from __future__ import annotations

import functools
import itertools
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
    distribution: Any = None  # of the policy's actions for the batch, with a graph, for auxiliary losses
    weights: Tensor | None = None  # (M,) of the tasks' losses, which an aggregator chose; mean 1, or nearly so


LossFunction = Callable[[Parameters, Batch], TaskLosses]
"""Pure: its randomness is in the batch (`Batch.noise`)."""


def task_gradients(
    loss_fn: LossFunction, batch: Batch, parameters: Parameters, num_tasks: int, vectorized: bool = True
) -> tuple[dict[str, Tensor], TaskLosses]:
    """Gradient of every task's own loss: ({name: (M, *shape)}, losses).

    `batch` must be sorted by task; of one that is shared out, the losses and gradients are those of this rank's rows.
    Tasks without samples have loss and gradient 0. `vectorized` False: without `vmap`, one pass per task.
    """
    detached: Parameters = {name: parameter.detach() for name, parameter in parameters.items()}
    picks = torch.eye(num_tasks, device=batch.reward.device)
    order = None
    found: list[_Gradients] = []
    if vectorized:
        parts, order = passes_over_tasks(batch.own_counts, batch.reward.device)
        found = [_vectorized_pass(loss_fn, batch, detached, part, picks[part.tasks]) for part in parts]
    else:
        stops = list(itertools.accumulate(batch.own_counts))
        for task, count in enumerate(batch.own_counts):
            if count:
                own = _slice(batch, stops[task] - count, stops[task])
                found.append(_sliced_pass(loss_fn, own, detached, task, picks[task]))
    tasks, gradients, losses, metrics = zip(*found, strict=True)
    sums = {name: torch.cat([own[name] for own in losses]).sum(0) for name in losses[0]}
    joined = {name: torch.cat([own[name] for own in metrics]) for name in metrics[0]}
    if order is not None:
        joined = {name: value[order] for name, value in joined.items()}
    return _of_all_tasks(tasks, gradients, num_tasks), TaskLosses(sums["losses"], joined, gauge=sums.get("gauge"))


class TaskPass(NamedTuple):
    """Tasks whose gradients are taken in one vectorized pass."""

    tasks: Tensor  # (k,) int64
    rows: Tensor | None  # (k, width) int64, rows of the batch; None: all of them, in equal shares


class Passes(NamedTuple):
    """The vectorized passes over a batch."""

    parts: Sequence[TaskPass]
    order: Tensor | None  # (B,) int64, where the rows of the batch are in the joined passes; None: in order


PASS_COST = 128
"""What a pass costs on its own, in rows of the batch: about 2 ms where 1280 rows take 25 ms."""


@functools.lru_cache(maxsize=64)
def passes_over_tasks(counts: tuple[int, ...], device: torch.device) -> Passes:
    """The passes that cost least: tasks in one pass are filled up to the largest of them.

    A task is filled up with a row of another task, whose loss is not the one differentiated: means within a task do not
    see it, and it is valid input.
    """
    if len(set(counts)) == 1:
        return Passes([TaskPass(torch.arange(len(counts), device=device), None)], None)
    present = [task for task, count in enumerate(counts) if count]
    starts = [stop - count for stop, count in zip(itertools.accumulate(counts), counts, strict=True)]
    parts, places, offset = [], dict[int, int](), 0  # of a row of the batch in the joined passes
    for tasks in _cheapest_parts(counts, sorted(present, key=lambda task: counts[task])):
        width = max(counts[task] for task in tasks)
        rows = []
        for task in tasks:
            other = next((other for other in present if other != task), task)
            rows.append([*range(starts[task], starts[task] + counts[task])] + [starts[other]] * (width - counts[task]))
            places |= {starts[task] + row: offset + row for row in range(counts[task])}
            offset += width
        parts.append(TaskPass(*(torch.tensor(values, device=device) for values in (tasks, rows))))
    return Passes(parts, torch.tensor([places[row] for row in range(sum(counts))], device=device))


def _cheapest_parts(counts: Sequence[int], tasks: Sequence[int]) -> list[list[int]]:
    """Tasks, which are sorted by count, cut into parts of the least total cost; each in increasing order of tasks."""
    costs, cuts = [0], [0]
    for end in range(1, len(tasks) + 1):
        # The last part is tasks[start:end], as wide as its last task.
        options = [costs[start] + PASS_COST + (end - start) * counts[tasks[end - 1]] for start in range(end)]
        costs.append(min(options))
        cuts.append(options.index(costs[-1]))
    parts, end = [], len(tasks)
    while end:
        parts.append(sorted(tasks[cuts[end] : end]))
        end = cuts[end]
    return parts


_Gradients = tuple[Tensor, dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]
"""Of k tasks: which (k,), gradients (k, *shape), losses and gauge (k, M), and metrics (rows, ...)."""


def _vectorized_pass(
    loss_fn: LossFunction, batch: Batch, parameters: Parameters, part: TaskPass, picks: Tensor
) -> _Gradients:
    """Columns (B, ...) become (k, width, ...)."""
    size = len(part.tasks)
    rows = part.rows
    sliced = batch.map_columns(lambda value: value.unflatten(0, (size, -1)) if rows is None else value[rows])

    def task_gradient(columns: dict[str, Tensor], own: Tensor) -> tuple[dict[str, Tensor], tuple[Any, Any]]:
        return grad(_own_loss(loss_fn, batch.with_columns(columns), own), has_aux=True)(parameters)

    gradients, (losses, metrics) = vmap(task_gradient)(sliced.columns(), picks)
    return part.tasks, gradients, losses, {name: value.flatten(0, 1) for name, value in metrics.items()}


def _sliced_pass(loss_fn: LossFunction, own: Batch, parameters: Parameters, task: int, pick: Tensor) -> _Gradients:
    """The rows of one task."""
    gradients, (losses, metrics) = grad(_own_loss(loss_fn, own, pick), has_aux=True)(parameters)
    gradients, losses = ({name: value.unsqueeze(0) for name, value in part.items()} for part in (gradients, losses))
    return torch.tensor([task], device=pick.device), gradients, losses, metrics


def _slice(batch: Batch, start: int, stop: int) -> Batch:
    return batch.map_columns(lambda value: value[start:stop])


def _of_all_tasks(tasks: Sequence[Tensor], gradients: Sequence[dict[str, Tensor]], num_tasks: int) -> dict[str, Tensor]:
    """The gradients (M, *shape) from those of some tasks each; 0 for a task in none."""
    if len(tasks) == 1 and len(tasks[0]) == num_tasks:  # in increasing order
        return gradients[0]
    every = {name: value.new_zeros(num_tasks, *value.shape[1:]) for name, value in gradients[0].items()}
    for own, part in zip(tasks, gradients, strict=True):
        for name, value in part.items():
            every[name].index_copy_(0, own, value)
    return every


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
