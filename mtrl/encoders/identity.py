"""No encoder, for observations that are vectors. Shapes: B batch, D observation."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from torch import nn

from mtrl.encoders.encoder import Encoder, encoders
from mtrl.errors import BadInput


@encoders.register("identity")
class Identity(Encoder):
    """Vector observations as they are."""

    def __init__(self, observation_space: gym.spaces.Box, config: Any):
        super().__init__(observation_space, config)
        if len(observation_space.shape) != 1:
            raise BadInput(
                f"encoder 'identity' takes vectors, not observations of shape {observation_space.shape}; "
                "for pixels use --encoder nature or impala"
            )
        self.out_features = observation_space.shape[0]

    forward = nn.Identity.forward  # (B, D) -> (B, D)
