"""CUDA graphs: what a GPU does in an update is recorded once and replayed, not launched kernel by kernel.

Small networks are hundreds of kernels of a few microseconds each, which take longer to launch than to run.
"""

from __future__ import annotations

import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from mtrl.errors import BadInput
from mtrl.types import Metrics

WARM_UP_CALLS = 3
"""Of a form of input before it is recorded: libraries set themselves up."""
MAX_RECORDINGS = 8
"""Each holds memory of its own; a further one takes the place of one that is idle."""
IDLE_CALLS = 1000
"""Calls without a use after which a recording makes room. To record takes longer than many calls that are not."""
_MAX_COUNTED = 64


class Replayed:
    """A function on a GPU that is recorded once per form of its inputs, dataclasses of tensors and of what is fixed.

    It must not read a value back, and must find its parameters and moments where they were: an agent that takes up a
    saved state makes a new one. Where tasks get ever other numbers of rows, hardly anything is recorded.
    """

    def __init__(self, function: Callable[..., Metrics], generators: Sequence[torch.Generator]):
        """`generators`: all that the function draws from on the GPU."""
        self._function = function
        self._generators = generators
        self._num_calls = 0
        self._calls: Counter[Hashable] = Counter()
        self._recordings: OrderedDict[Hashable, _Recording] = OrderedDict()  # the one used last is the last
        # One for every place and form; they go with the recordings that read them.
        self._inputs: WeakValueDictionary[Hashable, _Input] = WeakValueDictionary()

    def __call__(self, *inputs: Any) -> Metrics:
        """What the function makes of the inputs; one that is the very object of the call before must not be changed.

        Raises BadInput if the function cannot be recorded.
        """
        self._num_calls += 1
        forms = tuple(_form(given) for given in inputs)
        recording = self._recordings.get(forms)
        if recording is None:
            if len(self._calls) == _MAX_COUNTED:
                self._calls.clear()
            self._calls[forms] += 1
            if self._calls[forms] <= WARM_UP_CALLS:
                return self._function(*inputs)
            if len(self._recordings) == MAX_RECORDINGS:
                if self._num_calls - next(iter(self._recordings.values())).last_call <= IDLE_CALLS:
                    return self._function(*inputs)
                self._recordings.popitem(last=False)
            memory = [self._memory_of(place, given) for place, given in zip(enumerate(forms), inputs, strict=True)]
            recording = self._recordings[forms] = _Recording(self._function, memory, self._generators)
        self._recordings.move_to_end(forms)
        recording.last_call = self._num_calls
        return recording.replay(inputs)

    def _memory_of(self, place: Hashable, given: Any) -> _Input:
        found = self._inputs.get(place)
        if found is None:
            found = self._inputs[place] = _Input(given)
        return found


class _Input:
    """Memory that recordings read an input of one form from."""

    def __init__(self, given: Any):
        self.own = _with_tensors(given, {name: value.clone() for name, value in _tensors(given).items()})
        self._own = list(_tensors(self.own).values())
        self._holds = weakref.ref(given)

    def take(self, given: Any) -> None:
        if given is not self._holds():
            torch._foreach_copy_(self._own, list(_tensors(given).values()))
            self._holds = weakref.ref(given)


class _Recording:
    """The kernels of one call, and the memory that they write to."""

    def __init__(self, function: Callable[..., Metrics], inputs: list[_Input], generators: Sequence[torch.Generator]):
        self.last_call = 0
        self._inputs = inputs
        self._graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self._graph.register_generator_state(generator)  # else every replay would draw the same
        try:
            with torch.cuda.graph(self._graph):
                metrics = function(*(memory.own for memory in inputs))
                self._metrics = torch.cat([values.float().flatten() for values in metrics.values()])
        except RuntimeError as error:
            raise BadInput(f"cuda_graphs: this update cannot be recorded: {str(error).splitlines()[0]}") from error
        self._shapes = {name: values.shape for name, values in metrics.items()}
        self._places = list(pairwise(np.cumsum([0, *(values.numel() for values in metrics.values())]).tolist()))

    def replay(self, inputs: Sequence[Any]) -> Metrics:
        for memory, given in zip(self._inputs, inputs, strict=True):
            memory.take(given)
        self._graph.replay()
        metrics = self._metrics.clone()  # the next replay writes to the same memory
        return {
            name: metrics[start:stop].view(shape)
            for (name, shape), (start, stop) in zip(self._shapes.items(), self._places, strict=True)
        }


def _tensors(given: Any) -> dict[str, Tensor]:
    """Tensors of a dataclass and of its mappings by name."""
    found: dict[str, Tensor] = {}
    for field in fields(given):
        value = getattr(given, field.name)
        if isinstance(value, Tensor):
            found[field.name] = value
        elif isinstance(value, dict):
            found |= {f"{field.name}.{name}": own for name, own in value.items()}
    return found


def _with_tensors(given: Any, tensors: dict[str, Tensor]) -> Any:
    """The dataclass with other tensors, named as in `_tensors`."""
    changes: dict[str, Any] = {}
    for name, value in tensors.items():
        field, _, key = name.partition(".")
        if key:
            changes.setdefault(field, {})[key] = value
        else:
            changes[field] = value
    return replace(given, **changes)


def _form(given: Any) -> Hashable:
    fixed = tuple(value for field in fields(given) if isinstance(value := getattr(given, field.name), tuple))
    return fixed, tuple((name, value.shape, value.dtype) for name, value in _tensors(given).items())
