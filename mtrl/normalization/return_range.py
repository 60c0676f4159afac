"""Rewards divided so that returns stay within fixed bounds, per task (BRC: Nauman et al., 2025, arXiv:2505.23150).

What is measured is the largest absolute discounted sum of an episode's rewards so far. Unlike a standard deviation it
only grows, and settles once the policy has met the best rewards. It suits categorical critics, whose bins have bounds:
give these the same `limit`. BRC also adds what the entropy can contribute; here values beyond the bounds are clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtrl.normalization.normalizer import normalizers
from mtrl.normalization.return_scale import ReturnDivider


@normalizers.register("return-range")
class ReturnRange(ReturnDivider):
    """Divides by the largest discounted sum of rewards seen in the task, so that returns lie within +- `limit`."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        limit: Annotated[float, Field(gt=0)] = 10.0  # of the returns that networks predict

    largest: Tensor  # (M,) float64

    def __init__(self, num_tasks: int, config: Config, discount: float = 0.99):
        super().__init__(num_tasks, config, discount)
        self.limit = config.limit
        self.register_buffer("largest", torch.zeros(num_tasks, dtype=torch.float64))

    def divisors(self) -> Tensor:
        """1 until there is a sum that is not 0."""
        return torch.where(self.largest > 0, self.largest / self.limit, 1.0)

    def measure(self, sums: Tensor, task_ids: Tensor) -> None:
        finite = sums.abs().nan_to_num(0.0, posinf=0.0)
        self.largest.scatter_reduce_(0, task_ids, finite, "amax")
