"""The convolutional network of DQN (Mnih et al., 2015, doi:10.1038/nature14236).

Three convolutions and one linear layer, a ReLU after each. Initial weights are orthogonal with gain sqrt(2) and biases
zero, as in the usual PPO implementations; the paper does not say. Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import gymnasium as gym
from pydantic import Field
from torch import Tensor, nn

from mtrl.encoders.encoder import Encoder, encoders
from mtrl.encoders.pixels import Scale, flattened_size, image_shape, orthogonal_


@encoders.register("nature")
class Nature(Encoder):
    """The three convolutions of DQN and a linear layer, for pixels."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        features: Annotated[int, Field(ge=1)] = 512  # outputs of the last layer

    def __init__(self, observation_space: gym.spaces.Box, config: Config):
        """Raises BadInput for observations that are not images of at least 36 x 36."""
        super().__init__(observation_space, config)
        shape = image_shape(observation_space, "nature")
        self.scale = Scale(observation_space)
        self.convolutions = nn.Sequential(
            nn.Conv2d(shape[0], 32, kernel_size=8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, kernel_size=3, stride=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.linear = nn.Sequential(
            nn.Linear(flattened_size(self.convolutions, shape, "nature"), config.features), nn.ReLU()
        )
        self.out_features = config.features
        orthogonal_(self)

    def forward(self, observation: Tensor) -> Tensor:
        """(B, C, H, W) uint8 or float32 -> (B, features)."""
        return self.linear(self.convolutions(self.scale(observation)))
