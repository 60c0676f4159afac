"""Rewards multiplied so that the mean reward of every task is that of the best (ARS; Cho et al., 2025).

    scale_i = max_j r_j / max(r_i, 0.01),    r_j the mean reward of task j so far

is measured anew only when networks start anew, at the start of learning and at resets, as there: in between, what is
learned does not change its units. Suited to rewards that are not negative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtrl.normalization.normalizer import normalizers
from mtrl.normalization.return_scale import ReturnDivider
from mtrl.types import EnvStep

SMALLEST_MEAN = 0.01


@normalizers.register("task-mean")
class TaskMean(ReturnDivider):
    """Divides by the task's mean reward relative to the largest mean of any task; changes only at network resets."""

    total: Tensor  # (M,) float64 sum of rewards
    count: Tensor  # (M,) float64
    divisor: Tensor  # (M,) float64 in use

    def __init__(self, num_tasks: int, config: Any, discount: float = 0.99):
        super().__init__(num_tasks, config, discount)
        for name, start in ("total", 0.0), ("count", 0.0), ("divisor", 1.0):
            self.register_buffer(name, torch.full((num_tasks,), start, dtype=torch.float64))

    def divisors(self) -> Tensor:
        """1 until `on_reset`."""
        return self.divisor

    def measure(self, sums: Tensor, task_ids: Tensor) -> None:
        """Nothing: it is rewards that are measured, not their sums."""

    def on_env_step(self, step: EnvStep) -> None:
        reward, task_ids = (torch.from_numpy(values).to(self.total.device) for values in (step.reward, step.task_ids))
        reward = reward.double()
        finite = torch.isfinite(reward)
        self.total.index_add_(0, task_ids, torch.where(finite, reward, 0.0))
        self.count.index_add_(0, task_ids, finite.double())

    def on_reset(self) -> None:
        means = (self.total / self.count.clamp(min=1)).clamp(min=SMALLEST_MEAN)
        self.divisor.copy_(torch.where(self.count > 0, means / means.max(), 1.0))
