"""Encoders: from observations to features, before any policy architecture. Shapes: B batch, D features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from mtrl.faults import WrongResult
from mtrl.registry import Registry
from mtrl.types import EnvStep


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

    def on_env_step(self, step: EnvStep) -> None:
        """Takes in one vector step, in time order, where observations are measured."""

    def refresh(self) -> None:
        """Puts what was measured into use; agents call it between updates, where features may change."""


@torch.no_grad()
def refuse_wrong_features(encoder: Encoder, observation_space: gym.spaces.Box) -> None:
    """Raises WrongResult for an encoder whose features of two observations have another shape or dtype."""
    features = encoder(torch.from_numpy(np.zeros((2, *observation_space.shape), observation_space.dtype)))
    expected = (2, encoder.out_features)
    if not isinstance(features, Tensor):
        raise WrongResult(f"returned {type(features).__name__} from forward, expected a tensor")
    if features.shape != expected or features.dtype != torch.float32:
        found = f"{tuple(features.shape)} {features.dtype}"
        raise WrongResult(f"returned {found} from forward, expected {expected} torch.float32")


encoders: Registry[Encoder] = Registry("encoder", Encoder)
