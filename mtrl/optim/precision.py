"""How precise the matrix products of networks are.

`bfloat16` is mixed precision (Kalamkar et al., 2019, arXiv:1905.12322): weights, gradients, the optimiser's moments and
all that passes between networks stay float32; inside a network products and convolutions round their operands to
bfloat16, which has float32's range and 8 bits of precision, and sum up in float32. Last layers stay float32: values
that differ by less than a 256th of their size are what actions are chosen by.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Precision = Literal["float32", "bfloat16"]


class MixedPrecision(nn.Module):
    """A network whose `forward` takes and returns float32 and may make its products in bfloat16."""

    precision: Precision = "float32"

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if self.precision == "float32":
            return super().__call__(*inputs, **named)
        first, *_ = *inputs, *named.values()  # features or observations
        with torch.autocast(first.device.type, torch.bfloat16):
            return _in_float32(super().__call__(*inputs, **named))


def _in_float32(said: Any) -> Any:
    """Tensors of floating numbers, alone or in mappings and dataclasses, as float32; all else as it is."""
    if isinstance(said, Tensor):
        return said.float() if said.is_floating_point() else said
    if isinstance(said, Mapping):
        return {name: _in_float32(value) for name, value in said.items()}
    if dataclasses.is_dataclass(said) and not isinstance(said, type):
        return dataclasses.replace(said, **{name: _in_float32(value) for name, value in vars(said).items()})
    return said


def exact(product: Callable[..., Tensor], values: Tensor, *others: Tensor) -> Tensor:
    """`product(values, *others)` in float32 whatever the precision of the network; the others are float32 already."""
    if not torch.is_autocast_enabled(values.device.type):
        return product(values, *others)
    with torch.autocast(values.device.type, enabled=False):
        return product(values.float(), *others)


class LastLinear(nn.Linear):
    """A last layer, which stays exact."""

    def forward(self, values: Tensor) -> Tensor:
        """values (B, in) -> (B, out) float32."""
        return exact(F.linear, values, self.weight, self.bias)
