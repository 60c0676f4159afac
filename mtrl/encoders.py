"""What turns an observation into features, before any policy architecture. Shapes: B batch, D features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from torch import Tensor, nn

from mtrl.errors import BadInput
from mtrl.registry import Registry


class Encoder(nn.Module, ABC):
    """observation (B, *shape) -> features (B, out_features) float32, shared over tasks."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters."""

    out_features: int

    @abstractmethod
    def __init__(self, observation_space: gym.spaces.Box, config: Any):
        super().__init__()

    @abstractmethod
    def forward(self, observation: Tensor) -> Tensor: ...


encoders: Registry[Encoder] = Registry("encoder")


@encoders.register("identity")
class Identity(Encoder):
    """Vector observations as they are."""

    def __init__(self, observation_space: gym.spaces.Box, config: Any):
        super().__init__(observation_space, config)
        if len(observation_space.shape) != 1:
            raise BadInput(f"encoder 'identity' takes vectors, not observations of shape {observation_space.shape}")
        self.out_features = observation_space.shape[0]

    def forward(self, observation: Tensor) -> Tensor:
        return observation
