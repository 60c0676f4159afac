"""The residual network of IMPALA (Espeholt et al., 2018, arXiv:1802.01561, figure 3, right).

Three sections of a convolution, a max-pooling and two residual blocks, then a linear layer; without the recurrence.
Initial weights are orthogonal, and residual blocks start near the identity (as in Goyal et al., 2017, arXiv:1706.02677,
section 5.1). With torch's defaults every layer would shrink what tells two images apart.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import gymnasium as gym
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mtrl.encoders.encoder import Encoder, encoders
from mtrl.encoders.pixels import Scale, flattened_size, image_shape, orthogonal_

SECTIONS = (1, 2, 2)
"""Channels of each section, in units of the first one's."""


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), shape preserved."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.second = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


def section(in_channels: int, out_channels: int) -> nn.Sequential:
    """(B, in_channels, H, W) -> (B, out_channels, H/2, W/2), rounded up."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        ResidualBlock(out_channels),
        ResidualBlock(out_channels),
    )


@encoders.register("impala")
class Impala(Encoder):
    """The residual convolutional network of IMPALA, for pixels."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        channels: Annotated[int, Field(ge=1)] = 16  # of the first section; the other two have twice as many
        features: Annotated[int, Field(ge=1)] = 256  # outputs of the last layer

    def __init__(self, observation_space: gym.spaces.Box, config: Config):
        """Raises BadInput for observations that are not images."""
        super().__init__(observation_space, config)
        shape = image_shape(observation_space, "impala")
        self.scale = Scale(observation_space)
        widths = [shape[0], *(config.channels * factor for factor in SECTIONS)]
        self.convolutions = nn.Sequential(*(section(i, o) for i, o in pairwise(widths)), nn.ReLU(), nn.Flatten())
        self.linear = nn.Sequential(
            nn.Linear(flattened_size(self.convolutions, shape, "impala"), config.features), nn.ReLU()
        )
        self.out_features = config.features
        orthogonal_(self)
        for block in self.modules():
            if isinstance(block, ResidualBlock):
                nn.init.orthogonal_(block.second.weight, 0.1)

    def forward(self, observation: Tensor) -> Tensor:
        """(B, C, H, W) uint8 or float32 -> (B, features)."""
        return self.linear(self.convolutions(self.scale(observation)))
