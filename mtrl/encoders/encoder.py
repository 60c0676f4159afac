"""Encoders: from observations to features, before any policy architecture. Shapes: B batch, D features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from torch import Tensor, nn

from mtrl.faults import WrongResult
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

    def __call__(self, observation: Tensor) -> Tensor:
        """`forward`. Raises WrongResult for features of another shape, or integers."""
        features = super().__call__(observation)
        expected = (len(observation), self.out_features)
        if not isinstance(features, Tensor) or features.shape != expected or not features.is_floating_point():
            found = f"{tuple(features.shape)} {features.dtype}" if isinstance(features, Tensor) else type(features)
            raise WrongResult(f"returned {found} from forward, expected {expected} torch.float32")
        return features


encoders: Registry[Encoder] = Registry("encoder", Encoder)
