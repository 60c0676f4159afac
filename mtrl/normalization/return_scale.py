"""Returns divided by their running standard deviation, per task.

What is measured is the discounted sum of an episode's rewards so far, as OpenAI Baselines' VecNormalize and Gymnasium's
NormalizeReward do, once per environment step; learning only reads it. Unlike PopArt, a change of the scale changes what
the networks predict in reward units. Shapes: B batch, M tasks, N slots.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from mtrl.normalization.normalizer import ReturnNormalizer, normalizers
from mtrl.per_task import mean_per_task
from mtrl.types import EnvStep


class ReturnDivider(ReturnNormalizer):
    """Divides rewards, and with them returns, by a number per task that is measured on discounted sums of rewards."""

    def __init__(self, num_tasks: int, config: Any, discount: float = 0.99):
        super().__init__(num_tasks, config, discount)
        self.num_tasks = num_tasks
        self.discount = discount
        self.sums = torch.zeros(0, dtype=torch.float64)  # (N,) of the running episodes

    @abstractmethod
    def divisors(self) -> Tensor:
        """(M,) float64, positive."""

    @abstractmethod
    def measure(self, sums: Tensor, task_ids: Tensor) -> None:
        """Takes in the sums (N,) float64 of one vector step."""

    def denormalize(self, values: Tensor, task_ids: Tensor) -> Tensor:
        return values * self.scale(task_ids)

    def normalize(self, returns: Tensor, task_ids: Tensor) -> Tensor:
        return returns / self.scale(task_ids)

    def scale(self, task_ids: Tensor) -> Tensor:
        return self.divisors()[task_ids].float()

    def regularization_scale(self, task_ids: Tensor) -> Tensor:
        return self.scale(task_ids)  # it is the rewards that are divided

    def on_env_step(self, step: EnvStep) -> None:
        device = next(self.buffers()).device
        reward, task_ids = torch.from_numpy(step.reward).to(device), torch.from_numpy(step.task_ids).to(device)
        if len(self.sums) != len(reward):
            self.sums = torch.zeros_like(reward, dtype=torch.float64)
        self.sums = self.discount * self.sums.to(device) + reward
        self.measure(self.sums, task_ids)
        ended = torch.from_numpy(step.terminated | step.truncated).to(device)
        self.sums = torch.where(ended, 0.0, self.sums)

    def end_running_episodes(self) -> None:
        self.sums = torch.zeros_like(self.sums)

    def get_extra_state(self) -> Tensor:
        """The sums: as many as the run has slots, which this module does not know before the first step."""
        return self.sums

    def set_extra_state(self, state: Tensor) -> None:
        self.sums = state.clone()


@normalizers.register("return-scale")
class ReturnScale(ReturnDivider):
    """Divides by the standard deviation of all discounted sums of rewards seen in the task."""

    count: Tensor  # (M,) float64 sums seen
    mean: Tensor  # (M,) float64
    squares: Tensor  # (M,) float64 sum of squared differences from the mean

    def __init__(self, num_tasks: int, config: Any, discount: float = 0.99):
        super().__init__(num_tasks, config, discount)
        for name in ("count", "mean", "squares"):
            self.register_buffer(name, torch.zeros(num_tasks, dtype=torch.float64))

    def divisors(self) -> Tensor:
        """Standard deviations; 1 until there are two sums."""
        variance = torch.where(self.count > 1, self.squares / self.count.clamp(min=1), 1.0)
        return variance.clamp(min=1e-8).sqrt()

    def measure(self, sums: Tensor, task_ids: Tensor) -> None:
        """Merges statistics (Chan et al., 1979, equation 2.1)."""
        means = mean_per_task(sums, task_ids, self.num_tasks)
        counts = torch.zeros_like(means).index_add(0, task_ids, torch.ones_like(sums))
        squares = torch.zeros_like(means).index_add(0, task_ids, (sums - means[task_ids]).square())
        total = (self.count + counts).clamp(min=1)
        difference = means - self.mean
        self.squares += squares + difference.square() * self.count * counts / total
        self.mean += difference * counts / total
        self.count += counts
