"""A softmax over the distances from the targets (A5C; Sharma et al., 2017, arXiv:1702.06053). Shapes: M tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from mtrl.scheduling.active.active_scheduler import ActiveScheduler
from mtrl.scheduling.scheduler import schedulers


@schedulers.register("a5c")
class A5C(ActiveScheduler):
    """Softmax of each task's distance from its target."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ActiveScheduler.Config):
        temperature: Annotated[float, Field(ge=1e-6)] = 0.05  # tau of the softmax; small: the furthest task alone

    def shares(self, distances: np.ndarray, ended: np.ndarray) -> np.ndarray:
        scaled = np.exp((distances - distances.max()) / self.config.temperature)
        return scaled / scaled.sum()
