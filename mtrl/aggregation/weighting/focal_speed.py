"""Focal weighting by the speed of learning (Guo et al., 2018, dynamic task prioritization, on losses).

Shapes: m tasks with samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from mtrl.aggregation.aggregator import LossWeighting, aggregators


@aggregators.register("focal-speed")
class FocalSpeed(LossWeighting):
    """Focal weights -(1 - p)^gamma log p of p, the part of its smoothed loss that a task keeps in an update."""

    needs_gauge = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        rate: Annotated[float, Field(gt=0, lt=1)] = 0.05  # of the moving average of a loss, per update
        gamma: NonNegativeFloat = 2.0  # focusing exponent

    def __init__(self, num_tasks: int, config: Config, generator: torch.Generator):
        super().__init__(num_tasks, config, generator, ("average",))
        self.config = config

    def weights(self, losses: Tensor, tasks: Tensor) -> Tensor:
        before = self.memory["average"][tasks]
        before = torch.where(before > 0, before, losses)  # the first loss of a task
        average = self.config.rate * losses + (1 - self.config.rate) * before
        self.memory["average"][tasks] = average
        return normalized(focal(torch.minimum(average, before) / before, self.config.gamma))


def focal(kept: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p of p (m,) in (0, 1]."""
    return -((1 - kept) ** gamma) * kept.log()


def normalized(weights: Tensor) -> Tensor:
    """Weights (m,) of mean 1; 1 each where all are 0."""
    total = weights.sum()
    return torch.where(total > 0, len(weights) * weights / total, 1.0)
