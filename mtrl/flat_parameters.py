"""Parameters that lie one behind the other in memory, so that what an optimiser does is one call and not one for each.

Of networks of this size the calls are what costs: an update of two critics and an actor walks through a hundred tensors
otherwise, for the gradient's norm, for Adam and for the moving average of the targets.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_ALIGNED = 16
"""Numbers of four bytes in a cache line: where a parameter may begin, as matrix products like their operands."""
_BLOCK = 1024
"""Numbers that are summed up at a time."""


class FlatParameters:
    """Moves parameters into one tensor `values` of all their numbers, and lays their gradients out alike.

    From then on each of them is a part of it, and whoever writes one of the two changes the other. Between two
    parameters there may be numbers that are nobody's: 0 in `values` and `gradient`.
    """

    def __init__(self, parameters: Mapping[str, Tensor]):
        """None of them may be replaced or moved afterwards (`Module.to`). Raises ValueError for several dtypes."""
        self._parameters = dict(parameters)
        if len({parameter.dtype for parameter in self._parameters.values()}) != 1:
            raise ValueError("parameters that are optimised together need one dtype")
        self._starts: list[int] = []
        size = 0
        for parameter in self._parameters.values():
            self._starts.append(size)
            size += -(-parameter.numel() // _ALIGNED) * _ALIGNED
        size = -(-size // _BLOCK) * _BLOCK
        first = next(iter(self._parameters.values()))
        self.values = torch.zeros(size, dtype=first.dtype, device=first.device)
        # As dense as they are, but with the order of dimensions in memory that they have now.
        self._strides = [torch.empty_like(parameter).stride() for parameter in self._parameters.values()]
        self._places = list(self.split(self.values).values())
        for parameter, place in zip(self._parameters.values(), self._places, strict=True):
            parameter.data = place.copy_(parameter.detach())

    @property
    def gradient(self) -> Tensor:
        """The gradients that were gathered last, which lie as the parameters do in `values`."""
        assert self.values.grad is not None, "none were gathered"
        return self.values.grad

    def gradient_norm(self) -> Tensor:
        """Euclidean norm () of all gradients. By blocks: one long sum in single precision loses four digits."""
        return self.gradient.view(-1, _BLOCK).norm(dim=1).norm()

    def changed(self) -> None:
        """Tells autograd that the parameters were changed through `values`, which it does not see."""
        torch.autograd.graph.increment_version(list(self._parameters.values()))

    def start(self, index: int | None) -> int:
        """Where in `values` the parameter with that index begins; without one, or beyond the last, where all end."""
        return len(self.values) if index is None or index >= len(self._starts) else self._starts[index]

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Parts of a tensor like `values`, or its beginning, by the names of the parameters that they belong to."""
        placed = zip(self._parameters.items(), self._strides, self._starts, strict=True)
        return {
            name: flat.as_strided(parameter.shape, strides, flat.storage_offset() + start)
            for (name, parameter), strides, start in placed
            if start + parameter.numel() <= len(flat)
        }

    def gather_gradients(self) -> None:
        """Fills `gradient` from every `.grad`, however that lies in memory, and makes each `.grad` a part of it.

        Raises RuntimeError if a parameter is no part of `values` any more.
        """
        if self.values.grad is None:  # target networks never gather any
            self.values.grad = torch.zeros_like(self.values)
            for place, gradient in zip(self._places, self.split(self.values.grad).values(), strict=True):
                place.grad = gradient
        places, gradients = [], []
        for parameter, place in zip(self._parameters.values(), self._places, strict=True):
            if parameter.data_ptr() != place.data_ptr():
                raise RuntimeError("a parameter was replaced or moved after its optimiser was made")
            assert parameter.grad is not None, "an aggregator writes all of them"
            assert place.grad is not None
            places.append(place.grad)
            gradients.append(parameter.grad)
            parameter.grad = place.grad
        torch._foreach_copy_(places, gradients)


def polyak_update(target: FlatParameters, online: FlatParameters, rate: float) -> None:
    """target <- (1 - rate) target + rate online, in place."""
    target.values.lerp_(online.values, rate)
    target.changed()
