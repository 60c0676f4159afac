"""The implicit task schedule (Jean et al., 2019, arXiv:1909.06434): loss weights around 1. Shapes: M tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from mtrl.scheduling.active.active_scheduler import ActiveScheduler
from mtrl.scheduling.scheduler import Mode, schedulers


@schedulers.register("implicit")
class Implicit(ActiveScheduler):
    """1 + sign(S - S_i) min(gamma, (max_j S_j)^alpha |S - S_i|^beta), normalised.

    S_i is a task's score as a fraction of its target, S the mean over the tasks. All tasks count alike until one of
    them has a score. The defaults are ours.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(ActiveScheduler.Config):
        mode: Mode = "weight"  # as in the paper: the weights are factors of the losses; sample: shares
        gamma: Annotated[float, Field(ge=0, le=1)] = 0.5  # bound of a weight's difference from 1
        alpha: Annotated[float, Field(ge=0)] = 1.0  # larger: weights differ only once a task is near its target
        beta: Annotated[float, Field(ge=0)] = 1.0  # larger: small differences from the mean count less

    def shares(self, distances: np.ndarray, ended: np.ndarray) -> np.ndarray:
        scores = 1 - distances
        behind = scores.mean() - scores
        difference = scores.max() ** self.config.alpha * np.abs(behind) ** self.config.beta
        raw = 1 + np.sign(behind) * np.minimum(self.config.gamma, difference)
        return raw / raw.sum()
