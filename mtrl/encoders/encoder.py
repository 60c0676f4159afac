"""Encoders: from observations to features, before any policy architecture. Shapes: B batch, D features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from torch import Tensor, nn

from mtrl.registry import Registry


class Encoder(nn.Module, ABC):
    """observation (B, *shape) -> features (B, out_features), shared over tasks.

    The constructor raises BadInput for a shape that it cannot take. Observations arrive in the suite's own dtype:
    uint8 pixels are scaled here, on the device.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters."""

    out_features: int

    @abstractmethod
    def __init__(self, observation_space: gym.spaces.Box, config: Any):
        super().__init__()

    forward: Callable[[Tensor], Tensor]
    """observation (B, *shape) -> features (B, out_features)."""


encoders: Registry[Encoder] = Registry("encoder")
