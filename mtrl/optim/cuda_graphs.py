"""CUDA graphs: a gradient step on a GPU is captured once and replayed, not launched kernel by kernel.

Small networks are hundreds of kernels of a few microseconds each, which take longer to launch than to run.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable

import torch

from mtrl.aggregation import LossFunction, TaskLosses
from mtrl.errors import BadInput
from mtrl.types import Batch

WARM_UP_CALLS = 3
"""Eager calls per form of batch before the capture: libraries set themselves up."""
MAX_GRAPHS = 8
"""Each holds memory of its own; forms of batch beyond these run eagerly."""


MAX_COUNTED = 64
"""Forms of batch whose calls are counted at a time."""


class CudaGraphs:
    """A gradient step as one CUDA graph per loss function and form of batch (columns, shapes, samples per task).

    The step must not read a value back. Where tasks get ever other numbers of samples, hardly anything is captured.
    """

    def __init__(self, step: Callable[[LossFunction, Batch], TaskLosses]):
        self._step = step
        self._calls: Counter[Hashable] = Counter()
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()

    def __call__(self, loss_fn: LossFunction, batch: Batch) -> TaskLosses:
        """What the step returns. Raises BadInput if it cannot be captured."""
        columns = {name: (value.shape, value.dtype) for name, value in batch.columns().items()}
        form = loss_fn, batch.counts, tuple(columns.items())
        if form not in self._graphs:
            if len(self._calls) == MAX_COUNTED:
                self._calls.clear()
            self._calls[form] += 1
            if self._calls[form] <= WARM_UP_CALLS or len(self._graphs) == MAX_GRAPHS:
                return self._step(loss_fn, batch)
            self._graphs[form] = _Graph(self._step, loss_fn, batch)
        return self._graphs[form].replay(batch)

    def reset(self) -> None:
        """Forgets all graphs and starts to count anew: the memory that they read and write is no longer in use."""
        self._graphs.clear()
        self._calls.clear()


class _Graph:
    """The kernels of one step, and the memory that they read and write."""

    def __init__(self, step: Callable[[LossFunction, Batch], TaskLosses], loss_fn: LossFunction, batch: Batch):
        self._batch = batch.map_columns(torch.clone)
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self._graph):
                self._result = step(loss_fn, self._batch)
        except RuntimeError as error:
            raise BadInput(f"cuda_graphs: this update cannot be captured: {str(error).splitlines()[0]}") from error

    def replay(self, batch: Batch) -> TaskLosses:
        torch._foreach_copy_(list(self._batch.columns().values()), list(batch.columns().values()))
        self._batch.shares.copy_(batch.shares)
        self._graph.replay()
        # Copies: the next replay writes to the same memory.
        metrics = {name: value.clone() for name, value in self._result.metrics.items()}
        weights = None if self._result.weights is None else self._result.weights.clone()
        return TaskLosses(self._result.losses.clone(), metrics, weights=weights)
