"""Methods that change the gradient where the tasks' networks part: at the representation that the last layer reads.

A row of a batch has one task, so the gradients of two tasks by the representation never share a row, and their Gramian
is diagonal. One backward pass suffices: a hook changes the gradient on its way, and what lies behind the representation
(heads) keeps that of `mean`. Each network has a representation of its own: every critic of an ensemble, policy and
value.

Shapes: M tasks, B batch, d units of a representation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from mtrl.aggregation.aggregator import GradientAggregator, write_gradients
from mtrl.aggregation.task_losses import LossFunction, Parameters, TaskLosses
from mtrl.data_parallel.learning import totals
from mtrl.errors import BadInput
from mtrl.networks import Output
from mtrl.types import Batch


class RepresentationAggregator(GradientAggregator):
    """Changes the gradient of sum_i s_i L_i by every representation, row by row."""

    capturable = False

    @abstractmethod
    def change(self, gradient: Tensor, representation: Tensor, batch: Batch, index: int) -> Tensor:
        """The gradient (B, d) that takes the place of that of the index-th network's representation (B, d), detached.

        Called once per network and update, in the order of the backward pass.
        """

    def task_weights(self) -> Tensor | None:
        """Weights (M,) of the tasks in the last update, if there are such."""
        return None

    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        result = loss_fn(parameters, batch)
        self.memory = {name: kept.to(result.losses.device) for name, kept in self.memory.items()}
        found = list(representations(result.outputs))
        if not found:
            raise BadInput(
                "this aggregator works at the representation that tasks share, which the networks here have none of; "
                "choose another architecture or --aggregator mean"
            )
        for index, representation in enumerate(found):
            representation.register_hook(partial(self._changed, representation.detach(), batch, index))
        write_gradients((result.losses * batch.shares).sum(), parameters)
        return TaskLosses(result.losses.detach(), result.metrics, weights=self.task_weights())

    @torch.no_grad()
    def _changed(self, representation: Tensor, batch: Batch, index: int, gradient: Tensor) -> Tensor:
        # In float32 also where networks give bfloat16.
        return self.change(gradient.float(), representation.float(), batch, index).to(gradient.dtype)


def representations(outputs: Iterable[Output]) -> Iterator[Tensor]:
    """The representations (B, d) of networks, those of each member of an ensemble; networks without one left out."""
    for output in outputs:
        if output.members:
            yield from representations(output.members)
        elif output.representation is not None and output.representation.requires_grad:
            yield output.representation


def sums_per_task(values: Tensor, batch: Batch) -> Tensor:
    """Sums of values (B, ...) over the rows of each task (M, ...), those of all ranks."""
    (sums,) = totals(values.new_zeros(len(batch.counts), *values.shape[1:]).index_add(0, batch.task_ids, values))
    return sums
