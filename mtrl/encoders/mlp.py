"""Hidden layers shared by all tasks, for observations that are vectors. Shapes: B batch, D observation."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
from pydantic import PositiveInt
from torch import Tensor

from mtrl.encoders.encoder import Encoder, encoders
from mtrl.errors import BadInput
from mtrl.networks.layers import relu_layers


@encoders.register("mlp")
class MLPEncoder(Encoder):
    """Hidden layers for vectors, trained by the value function in SAC: for auxiliary tasks, which train features."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: PositiveInt = 256  # units per hidden layer
        depth: PositiveInt = 1  # hidden layers

    def __init__(self, observation_space: gym.spaces.Box, config: Config):
        """Raises BadInput for observations that are not vectors."""
        super().__init__(observation_space, config)
        if len(observation_space.shape) != 1:
            raise BadInput(
                f"encoder 'mlp' takes vectors, not observations of shape {observation_space.shape}; "
                "for pixels use --encoder nature or impala"
            )
        self.out_features = config.width
        self.layers = relu_layers([observation_space.shape[0], *config.depth * [config.width]])

    def forward(self, observation: Tensor) -> Tensor:
        """(B, D) -> (B, width)."""
        return self.layers(observation)
