"""From per-task losses to one gradient: the interface of every loss weighting and gradient method.

A loss has one path: `loss_fn(parameters, batch)`, a pure function whose noise is in the batch. Methods that need
one gradient per task get them from a single pass over the task-sorted batch (`vmap(grad)` over equal shares), never
from M passes over all of it.

Shapes: M tasks, B batch, P parameters.
"""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from mtrl.faults import WrongResult
from mtrl.networks import Output
from mtrl.registry import Registry
from mtrl.types import Batch, State

Parameters = Mapping[str, Tensor]


class TaskLosses(NamedTuple):
    """The result of a loss function."""

    losses: Tensor  # (M,) means within each task; 0 for a task without samples
    metrics: Mapping[str, Tensor] = {}  # detached, leading dimension B
    features: Tensor | None = None  # (B, F) of the encoder, for auxiliary losses
    outputs: Sequence[Output] = ()  # of the networks, whose own auxiliary losses are added


LossFunction = Callable[[Parameters, Batch], TaskLosses]
"""Pure: its randomness is in the batch (`Batch.noise`)."""


class GradientAggregator(ABC):
    """Combines the tasks' losses or gradients. One instance per parameter group."""

    vectorized: bool = True
    """Whether per-task gradients may be taken in one `vmap` pass; set by the group from its modules.

    False from the first pass on that `vmap` refuses.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters."""

    def __init__(self, num_tasks: int, config: Any, generator: torch.Generator):
        """`generator` is this instance's own stream (CPU)."""
        self.num_tasks = num_tasks
        self.generator = generator

    @abstractmethod
    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        """Writes `.grad` of every tensor in `parameters`, and of no other; returns the detached losses."""

    def task_gradients(
        self, loss_fn: LossFunction, batch: Batch, parameters: Parameters
    ) -> tuple[dict[str, Tensor], TaskLosses]:
        """The function `task_gradients`, without `vmap` from the first batch on where that refuses a network."""
        try:
            return task_gradients(loss_fn, batch, parameters, self.num_tasks, self.vectorized)
        except RuntimeError as error:
            if not self.vectorized:
                raise
            result = task_gradients(loss_fn, batch, parameters, self.num_tasks, vectorized=False)
            self.vectorized = False
            _report_refusal(str(error).partition("\n")[0])
            return result

    def state(self) -> State:
        """What a restart needs."""
        return {"generator": self.generator.get_state()}

    def load_state(self, state: State) -> None:
        """Takes up a state written by `state`."""
        self.generator.set_state(state["generator"])


def aggregate(
    aggregator: GradientAggregator, loss_fn: LossFunction, batch: Batch, parameters: Parameters
) -> TaskLosses:
    """The aggregator's `backward`. Raises WrongResult where that leaves a gradient out, or returns no losses (M,)."""
    result = aggregator.backward(loss_fn, batch, parameters)
    if not isinstance(result, TaskLosses) or result.losses.shape != batch.shares.shape:
        found = f"losses {tuple(result.losses.shape)}" if isinstance(result, TaskLosses) else type(result).__name__
        raise WrongResult(
            f"returned {found} from backward, expected TaskLosses with losses {tuple(batch.shares.shape)}"
        )
    if missing := [name for name, parameter in parameters.items() if parameter.grad is None]:
        raise WrongResult(f"left no gradient at {', '.join(missing)}")
    return result


aggregators: Registry[GradientAggregator] = Registry("aggregator", GradientAggregator)


@aggregators.register("mean")
class Mean(GradientAggregator):
    """The tasks' losses weighted by their shares of the batch: one backward pass."""

    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        result = loss_fn(parameters, batch)
        for parameter in parameters.values():
            parameter.grad = None
        # sum_i s_i L_i. `backward` lays gradients out in memory as their parameters are, which fused Adam relies on.
        (result.losses * batch.shares).sum().backward(inputs=list(parameters.values()))
        for parameter in parameters.values():
            if parameter.grad is None:  # the loss does not depend on it
                parameter.grad = torch.zeros_like(parameter)
        return TaskLosses(result.losses.detach(), result.metrics)


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
    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        jacobian, result = self.task_gradients(loss_fn, batch, parameters)
        scale = self.num_tasks * batch.shares
        rows = [gradient.flatten(1) for gradient in jacobian.values()]  # each (M, P_k)
        gramian = torch.outer(scale, scale) * sum(row @ row.T for row in rows)
        weights = self.weights(gramian) * scale
        for name, row in zip(jacobian, rows, strict=True):
            # In the memory layout of the parameter, which fused Adam relies on.
            gradient = torch.empty_like(parameters[name])
            parameters[name].grad = gradient.copy_((weights @ row).view_as(gradient))
        return result


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
    losses = torch.zeros(num_tasks, device=batch.reward.device)
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
            losses += task_losses
            metrics.append(task_metrics)
        start += count
    return gradients, TaskLosses(losses, {name: torch.cat([own[name] for own in metrics]) for name in metrics[0]})


@functools.cache  # once, whichever group meets it first
def _report_refusal(reason: str) -> None:
    logging.getLogger(__name__).warning(
        "torch.func.vmap refuses a network, so per-task gradients take one pass per task, which is slower: %s", reason
    )


def _slice(batch: Batch, start: int, stop: int) -> Batch:
    return batch.map_columns(lambda value: value[start:stop])


def _own_loss(
    loss_fn: LossFunction, batch: Batch, own: Tensor
) -> Callable[[Parameters], tuple[Tensor, tuple[Tensor, Any]]]:
    """The loss of the task that `own` (M,) picks, with the losses (M,) and metrics beside it.

    Picked, because an architecture's auxiliary losses may be there for every task, whichever samples it sees.
    """

    def loss(parameters: Parameters) -> tuple[Tensor, tuple[Tensor, Any]]:
        result = loss_fn(parameters, batch)
        return (result.losses * own).sum(), (result.losses.detach() * own, dict(result.metrics))

    return loss


def _gradients_of_equal_shares(
    loss_fn: LossFunction, batch: Batch, parameters: Parameters, num_tasks: int
) -> tuple[dict[str, Tensor], TaskLosses]:
    """One vectorised pass: columns (B, ...) become (M, B/M, ...)."""
    sliced = batch.map_columns(lambda value: value.unflatten(0, (num_tasks, -1)))

    def task_gradient(columns: dict[str, Tensor], own: Tensor) -> tuple[dict[str, Tensor], tuple[Tensor, Any]]:
        return grad(_own_loss(loss_fn, batch.with_columns(columns), own), has_aux=True)(parameters)

    tasks = torch.eye(num_tasks, device=batch.reward.device)
    gradients, (losses, metrics) = vmap(task_gradient)(sliced.columns(), tasks)
    return gradients, TaskLosses(losses.sum(0), {name: value.flatten(0, 1) for name, value in metrics.items()})
