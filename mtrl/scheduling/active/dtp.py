"""Dynamic task prioritization (Guo et al., 2018, "Dynamic Task Prioritization for Multitask Learning", ECCV).

The focal loss of a task's performance k_i in [0, 1] is its weight. The paper has k_i as a moving average of a metric;
here it is the mean score of the last episodes relative to the target. The paper also weighs the examples within a task
by the probability that a classifier gives the true class, which has no counterpart in reinforcement learning.
Shapes: M tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from mtrl.scheduling.active.active_scheduler import ActiveScheduler
from mtrl.scheduling.scheduler import Mode, schedulers


@schedulers.register("dtp")
class DTP(ActiveScheduler):
    """-(1 - k_i)^gamma ln max(k_i, min_score), normalised: k_i is a task's score as a fraction of its target."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ActiveScheduler.Config):
        mode: Mode = "weight"  # as in the paper: the weights are factors of the losses; sample: shares
        gamma: Annotated[float, Field(ge=0)] = 1.0  # larger: less for tasks that are near their target
        min_score: Annotated[float, Field(gt=0, lt=1)] = 0.01  # floor of k_i in the logarithm

    def shares(self, distances: np.ndarray, ended: np.ndarray) -> np.ndarray:
        raw = -(distances**self.config.gamma) * np.log(np.maximum(1 - distances, self.config.min_score))
        total = raw.sum()
        return raw / total if total > 0 else np.full(self.num_tasks, 1 / self.num_tasks)
