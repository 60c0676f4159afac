"""Weighting by homoscedastic uncertainty (Kendall et al., 2018, arXiv:1705.07115). Shapes: m tasks with samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mtrl.aggregation.aggregator import LossWeighting, aggregators
from mtrl.aggregation.weighting.task_memory import adam_names, adam_step

BOUND = 7.0
"""Of the logarithm of a task's noise: weights stay between 1e-6 and 1e6."""


@aggregators.register("uncertainty")
class Uncertainty(LossWeighting):
    """Losses divided by a learned variance per task, twice equation 7: e^(-2 r_i) L_i + 2 r_i with r = log sigma."""

    needs_gauge = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        learning_rate: PositiveFloat = 1e-3  # Adam, of log sigma

    def __init__(self, num_tasks: int, config: Config, generator: torch.Generator):
        super().__init__(num_tasks, config, generator, adam_names("log_sigma"))
        self.learning_rate = config.learning_rate

    def weights(self, losses: Tensor, tasks: Tensor) -> Tensor:
        weights = (-2 * self.memory["log_sigma"][tasks]).exp()
        # d/dr (e^(-2 r) L + 2 r) = 2 - 2 e^(-2 r) L
        adam_step(self.memory, "log_sigma", 2 - 2 * weights * losses, tasks, self.learning_rate)
        self.memory["log_sigma"].clamp_(-BOUND, BOUND)
        return weights
