"""From per-task losses to one gradient: the interface of every loss weighting and gradient method.

A loss has one path: `loss_fn(parameters, batch)`, a pure function whose noise is in the batch. Methods that need
one gradient per task get them from a single pass over the task-sorted batch (`vmap(grad)` over equal shares), never
from M passes over all of it.

Shapes: M tasks, m tasks with samples, B batch, P parameters.
"""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtrl.aggregation.task_losses import LossFunction, Parameters, TaskLosses, task_gradients
from mtrl.data_parallel.learning import learning, total_of_tasks
from mtrl.faults import WrongResult
from mtrl.registry import Registry
from mtrl.types import Batch, State


class GradientAggregator(ABC):
    """Combines the tasks' losses or gradients. One instance per parameter group."""

    needs_gauge: bool = False
    """Whether it reads `TaskLosses.gauge`. It is refused for parameter groups whose losses are signed."""
    needs_per_task_gradients: bool = False
    """Whether it takes `task_gradients`."""
    capturable: bool = True
    """Whether a CUDA graph may hold its `backward`: no state beside the parameters, and no value read back."""
    vectorized: bool = True
    """Whether per-task gradients may be taken in one `vmap` pass; set by the group from its modules.

    False from the first pass on that `vmap` refuses.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters."""

    def __init__(self, num_tasks: int, config: Any, generator: torch.Generator, memory: Sequence[str] = ()):
        """`generator` is this instance's own stream (CPU).

        memory: names of what a subclass keeps for each task, which is saved: `self.memory`, each (M,) float64, 0 at
        first.
        """
        self.num_tasks = num_tasks
        self.generator = generator
        self.memory = {name: torch.zeros(num_tasks, dtype=torch.float64) for name in memory}

    @abstractmethod
    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        """Writes `.grad` of every tensor in `parameters`, and of no other; returns the detached losses.

        The result may hold the weight of each task (`TaskLosses.weights`), which is logged.
        """

    def after_step(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> None:  # noqa: B027
        """Called after the optimizer's step, with what `backward` was given. Does nothing by default."""

    def task_gradients(
        self, loss_fn: LossFunction, batch: Batch, parameters: Parameters
    ) -> tuple[dict[str, Tensor], TaskLosses]:
        """The function `task_gradients`, without `vmap` from the first batch on where that refuses a network.

        Where an update is shared out, losses and gradients are those of the rows of all ranks.
        """
        with learning(shared=False):  # `vmap` takes no word to other ranks
            gradients, result = self._own_task_gradients(loss_fn, batch, parameters)
        gradients = {name: total_of_tasks(gradient, batch) for name, gradient in gradients.items()}
        losses = total_of_tasks(result.losses, batch)
        gauge = None if result.gauge is None else total_of_tasks(result.gauge, batch)
        return gradients, result._replace(losses=losses, gauge=gauge)

    def _own_task_gradients(
        self, loss_fn: LossFunction, batch: Batch, parameters: Parameters
    ) -> tuple[dict[str, Tensor], TaskLosses]:
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
        return {"generator": self.generator.get_state()} | {name: kept.clone() for name, kept in self.memory.items()}

    def load_state(self, state: State) -> None:
        """Takes up a state written by `state`."""
        self.generator.set_state(state["generator"])
        self.memory = {name: state[name].clone() for name in self.memory}


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
        # sum_i s_i L_i
        write_gradients((result.losses * batch.shares).sum(), parameters)
        return TaskLosses(result.losses.detach(), result.metrics, weights=torch.ones_like(batch.shares))


def write_gradients(total: Tensor, parameters: Parameters) -> None:
    """`.grad` of every parameter from one backward pass of `total` (); 0 where it does not depend on one."""
    for parameter in parameters.values():
        parameter.grad = None
    # `backward` lays gradients out in memory as their parameters are, which fused Adam relies on.
    total.backward(inputs=list(parameters.values()))
    for parameter in parameters.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


@functools.lru_cache(maxsize=64)
def tasks_with_samples(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """Indices (m,) int64 of the tasks that have samples, given the samples per task."""
    return torch.tensor([task for task, count in enumerate(counts) if count], dtype=torch.int64, device=device)


class LossWeighting(GradientAggregator):
    """Methods that choose one weight per loss, which is then a constant: one backward pass of sum_i s_i w_i L_i.

    Tasks without samples, and those whose gauge is 0, take no part, here once for all: `weights` sees the others, and
    moves their state alone.
    """

    capturable = False

    @abstractmethod
    def weights(self, losses: Tensor, tasks: Tensor) -> Tensor:
        """Weights (m,) of the tasks that take part; 1 each is `mean`.

        losses (m,) float64: the gauge, positive, if the class needs one; else the losses. tasks (m,) int64: which tasks
        these are, to index what is kept for each of M. All on the parameters' device, as `memory` is.
        """

    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        result = loss_fn(parameters, batch)
        tasks = tasks_with_samples(batch.counts, result.losses.device)
        losses = (gauge_of(result) if self.needs_gauge else result.losses).detach().double()
        if self.needs_gauge:
            tasks = tasks[losses[tasks] > 0]
        self.memory = {name: kept.to(losses.device) for name, kept in self.memory.items()}
        chosen = self.weights(losses[tasks], tasks) if len(tasks) else losses[tasks]
        if chosen.shape != tasks.shape:
            raise WrongResult(f"returned weights {tuple(chosen.shape)}, expected {tuple(tasks.shape)}")
        weights = torch.zeros_like(result.losses.detach()).index_copy(0, tasks, chosen.detach().to(result.losses))
        # sum_i s_i w_i L_i. A task without samples may have an auxiliary loss: its share is 0.
        write_gradients((result.losses * (batch.shares * weights)).sum(), parameters)
        return TaskLosses(result.losses.detach(), result.metrics, weights=weights)


def positive(losses: Tensor) -> Tensor:
    """Losses (m,), where 0 at least 1e-12 of the largest: then relative weights are finite."""
    return losses.clamp(min=(1e-12 * losses.max()).clamp(min=torch.finfo(torch.float32).tiny))


def gauge_of(result: TaskLosses) -> Tensor:
    """The gauge (M,) of a loss function. Raises WrongResult if it has none."""
    if result.gauge is None:
        raise WrongResult("returned TaskLosses without a gauge, which this aggregator reads")
    return result.gauge


class PresentTasks(NamedTuple):
    """The tasks that a Gramian is of: those with samples and a gradient that is not zero."""

    indices: Tensor  # (m,) int64, in increasing order, on the CPU
    gauge: Tensor | None  # (m,) float64, positive, on the CPU; None for a class that needs none


class JacobianAggregator(GradientAggregator):
    """Methods that choose one weight per task gradient from their inner products.

    Row i of the Jacobian is the gradient of m * share_i * loss_i, so that equal weights 1/m give `mean`. Tasks without
    samples, and those whose gradient is zero, are left out here once for all.
    """

    needs_per_task_gradients = True
    capturable = False

    def weights(self, gramian: Tensor) -> Tensor:
        """Inner products (m, m) of the task gradients -> weights (m,); float64, on the CPU, and finite."""
        raise NotImplementedError(f"{type(self).__qualname__} has neither weights nor task_weights")

    def task_weights(self, gramian: Tensor, tasks: PresentTasks) -> Tensor:
        """As `weights`, which it calls. Methods that keep something per task or read losses override this one."""
        return self.weights(gramian)

    # `torch.func.grad` differentiates all the same. Without it, the gradients would themselves be differentiable by
    # what else the loss reads (the actor's by the critics), and every update's graph would stay in memory.
    @torch.no_grad()
    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        jacobian, result = self.task_gradients(loss_fn, batch, parameters)
        rows = [gradient.flatten(1) for gradient in jacobian.values()]  # each (M, P_k)
        # Products in float32 and sums in float64, of gradients that are not weighted yet.
        gramian = gramian_of(rows)
        shares = batch.shares.double().cpu()
        norms = gramian.diagonal() * shares
        index = (norms != 0).nonzero().flatten()
        scale = len(index) * shares[index]
        gramian = torch.outer(scale, scale) * gramian[index][:, index]
        if len(index) and bool(gramian.isfinite().all()):
            gauge = positive(gauge_of(result).double().cpu()[index]) if self.needs_gauge else None
            chosen = self.task_weights(gramian, PresentTasks(index, gauge))
            if chosen.shape != index.shape:
                raise WrongResult(f"returned weights {tuple(chosen.shape)}, expected {tuple(index.shape)}")
        else:  # the parameter group stops the run
            chosen = torch.full_like(scale, 1 / max(1, len(index)))
        weights = torch.zeros_like(shares).index_copy(0, index, chosen.to(shares))
        combination = (weights * len(index) * shares).to(result.losses)
        for name, row in zip(jacobian, rows, strict=True):
            # In the memory layout of the parameter, which fused Adam relies on.
            gradient = torch.empty_like(parameters[name])
            parameters[name].grad = gradient.copy_((combination @ row).view_as(gradient))
        return result._replace(weights=(len(index) * weights).to(result.losses))


def gramian_of(rows: list[Tensor]) -> Tensor:
    """Inner products (M, M) of the rows of a Jacobian in parts (M, P_k); float64, on the CPU."""
    return torch.stack([row @ row.T for row in rows]).double().sum(0).cpu()


def cosines_of(gramian: Tensor) -> Tensor:
    """Cosines (M, M) of vectors with these inner products; NaN for one that is 0."""
    norms = gramian.diagonal().sqrt()
    return (gramian / torch.outer(norms, norms)).clamp(-1, 1)


@functools.cache  # once, whichever group meets it first
def _report_refusal(reason: str) -> None:
    logging.getLogger(__name__).warning(
        "torch.func.vmap refuses a network, so per-task gradients take one pass per task, which is slower: %s", reason
    )
