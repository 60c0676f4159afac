"""What convolutional encoders have in common: checked shapes, scaled pixels, initial weights.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from mtrl.errors import BadInput


def image_shape(observation_space: gym.spaces.Box, encoder: str) -> tuple[int, int, int]:
    """(C, H, W) of an image observation. Raises BadInput for anything else."""
    shape = observation_space.shape
    if len(shape) != 3:
        raise BadInput(
            f"encoder {encoder!r} takes images (channels, height, width), not observations of shape {shape}; "
            "for vectors use --encoder identity"
        )
    return shape[0], shape[1], shape[2]


def flattened_size(convolutions: nn.Module, shape: tuple[int, int, int], encoder: str) -> int:
    """Numbers per image (C, H, W) behind the convolutions. Raises BadInput for an image that is too small."""
    try:
        with torch.no_grad():
            return convolutions(torch.zeros(1, *shape)).numel()
    except RuntimeError as error:
        raise BadInput(f"encoder {encoder!r}: images of shape {shape} are too small: {error}") from error


class Scale(nn.Module):
    """Integer pixels in [low, high] to float32 in [0, 1], on the device; the values of float images stay.

    The result lies in memory channels last, and so does what convolutions make of it: with few input channels the
    gradient of their weights takes a third of the time on a CPU, and a GPU's matrix units want it too.
    """

    def __init__(self, observation_space: gym.spaces.Box):
        super().__init__()
        self.divisor = float(observation_space.high.max()) if observation_space.dtype == np.uint8 else None

    def forward(self, observation: Tensor) -> Tensor:
        """(B, C, H, W) of any dtype -> the same shape, float32."""
        scaled = observation.float()
        if self.divisor is not None:
            # In place where it is a copy: at these sizes the memory traffic of another one is what costs.
            is_copy = observation.dtype != torch.float32
            scaled = scaled.div_(self.divisor) if is_copy else scaled / self.divisor
        return scaled.movedim(1, -1).contiguous().movedim(-1, 1)  # `vmap` takes no memory_format


def orthogonal_(module: nn.Module, gain: float = math.sqrt(2)) -> None:
    """Orthogonal weights and zero biases in every layer; sqrt(2) is the gain for layers that a ReLU follows."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(layer.weight, gain)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
