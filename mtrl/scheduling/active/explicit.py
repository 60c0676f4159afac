"""Explicit task scheduling (Jean et al., 2019, arXiv:1909.06434). Shapes: M tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from mtrl.scheduling.active.active_scheduler import ActiveScheduler
from mtrl.scheduling.scheduler import schedulers


@schedulers.register("explicit")
class Explicit(ActiveScheduler):
    """1 / ((a_i / b_i)^alpha + epsilon), normalised: a_i is a task's score, b_i its target."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ActiveScheduler.Config):
        alpha: Annotated[float, Field(ge=0)] = 3.0  # how much more the tasks far from their targets get; 0: uniform
        epsilon: Annotated[float, Field(ge=1e-6)] = 0.1  # bounds the ratio of two shares by (1 + epsilon) / epsilon

    def shares(self, distances: np.ndarray, ended: np.ndarray) -> np.ndarray:
        raw = 1 / ((1 - distances) ** self.config.alpha + self.config.epsilon)
        return raw / raw.sum()
