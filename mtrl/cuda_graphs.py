"""CUDA graphs: what a GPU does in an update is recorded once and replayed, not launched kernel by kernel.

Small networks are hundreds of kernels of a few microseconds each, which take longer to launch than to run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import torch

from mtrl.types import Batch, Metrics

WARM_UP_CALLS = 3
"""Of a form of batch before it is recorded: optimisers make their moments, libraries set themselves up."""
MAX_RECORDINGS = 8
"""Forms of batch with a recording, which holds memory of its own; others are not recorded."""
_MAX_COUNTED = 64


class Replayed:
    """A function of batches on a GPU that is recorded once per form of batch (columns, rows of every task).

    It must not read a value back, and must find its parameters and moments where they were: an agent that takes up a
    saved state makes a new one. Where tasks get ever other numbers of rows, hardly anything is recorded.
    """

    def __init__(self, function: Callable[[Batch], Metrics], generators: Sequence[torch.Generator]):
        """`generators`: all that the function draws from on the GPU."""
        self._function = function
        self._generators = generators
        self._calls: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, _Recording] = {}

    def __call__(self, batch: Batch) -> Metrics:
        form = _form(batch)
        recording = self._recordings.get(form)
        if recording is None:
            if len(self._calls) == _MAX_COUNTED:
                self._calls.clear()
            self._calls[form] += 1
            if self._calls[form] <= WARM_UP_CALLS or len(self._recordings) == MAX_RECORDINGS:
                return self._function(batch)
            recording = self._recordings[form] = _Recording(self._function, batch, self._generators)
        return recording.replay(batch)


class _Recording:
    """The kernels of one call, and the memory that they read and write."""

    def __init__(self, function: Callable[[Batch], Metrics], batch: Batch, generators: Sequence[torch.Generator]):
        self._batch = replace(batch.map_rows(torch.clone), shares=batch.shares.clone())
        self._graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self._graph.register_generator_state(generator)  # else every replay would draw the same
        with torch.cuda.graph(self._graph):
            self._metrics = function(self._batch)

    def replay(self, batch: Batch) -> Metrics:
        """What the function makes of another batch of the same form."""
        for own, new in zip(self._batch.row_tensors().values(), batch.row_tensors().values(), strict=True):
            own.copy_(new)
        self._batch.shares.copy_(batch.shares)
        self._graph.replay()
        # The next replay writes to the same memory.
        return {name: values.clone() for name, values in self._metrics.items()}


def _form(batch: Batch) -> Hashable:
    return batch.counts, tuple((name, value.shape, value.dtype) for name, value in batch.row_tensors().items())
