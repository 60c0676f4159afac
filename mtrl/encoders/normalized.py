"""Vector observations to mean 0 and standard deviation 1, as VecNormalize of stable-baselines3. Shapes: B, N, D."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium as gym
import torch
from pydantic import Field
from torch import Tensor, nn

from mtrl.encoders.encoder import encoders
from mtrl.encoders.identity import Identity
from mtrl.types import EnvStep


class ObservationMoments(nn.Module):
    """Mean and variance of what was seen, and those in use. Copies of an encoder share one object of this class."""

    count: Tensor  # () float64
    mean: Tensor  # (D,) float64
    squares: Tensor  # (D,) float64 sum of squared differences from the mean
    shift: Tensor  # (D,) in use
    scale: Tensor  # (D,) in use

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        for name in ("mean", "squares"):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def __deepcopy__(self, memo: dict[int, Any]) -> ObservationMoments:
        """Target networks and averaged policies see observations in the units of the networks that learn."""
        return self

    @torch.no_grad()
    def add(self, observations: Tensor) -> None:
        """Adds (N, D) to what was seen (Chan et al., 1979, equation 2.1). Rows that are not finite are left out."""
        rows = observations.double()
        rows = rows[torch.isfinite(rows).all(1)]
        if not len(rows):
            return
        means, total = rows.mean(0), self.count + len(rows)
        difference = means - self.mean
        self.squares += (rows - means).square().sum(0) + difference.square() * self.count * len(rows) / total
        self.mean += difference * len(rows) / total
        self.count.copy_(total)

    def refresh(self) -> None:
        """Puts what was seen into use."""
        if self.count > 1:
            self.shift.copy_(self.mean)
            self.scale.copy_((self.squares / self.count).sqrt().clamp(min=1e-4))


@encoders.register("normalized")
class Normalized(Identity):
    """Vector observations, shifted and scaled by their running mean and standard deviation over all tasks."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        clip: Annotated[float, Field(gt=0)] = 10.0  # bound of normalised observations, in standard deviations

    def __init__(self, observation_space: gym.spaces.Box, config: Config):
        super().__init__(observation_space, config)
        self.clip = config.clip
        self.moments = ObservationMoments(self.out_features)

    def forward(self, observation: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return ((observation - self.moments.shift) / self.moments.scale).clamp(-self.clip, self.clip)

    def on_env_step(self, step: EnvStep) -> None:
        self.moments.add(torch.from_numpy(step.observation).to(self.moments.mean.device))

    def refresh(self) -> None:
        self.moments.refresh()
