"""Smooth Tchebycheff scalarization (Lin et al., 2024, arXiv:2402.19078). Shapes: m tasks with samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from mtrl.aggregation.aggregator import LossWeighting, aggregators
from mtrl.aggregation.weighting.task_memory import WINDOW, add_to_window


@aggregators.register("stch")
class SmoothTchebycheff(LossWeighting):
    """A smooth maximum of log (L_i / nadir_i): more weight for tasks that are worse than they were lately.

    Weights are its derivatives by the losses, scaled to mean 1.
    """

    needs_gauge = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        smoothing: PositiveFloat = 1.0  # mu; small: only the worst task counts
        window: PositiveInt = 100  # updates; the nadir is the mean loss of the last complete window

    def __init__(self, num_tasks: int, config: Config, generator: torch.Generator):
        super().__init__(num_tasks, config, generator, WINDOW)
        self.config = config

    def weights(self, losses: Tensor, tasks: Tensor) -> Tensor:
        nadir = self.memory["last_mean"][tasks]
        excess = torch.where(nadir > 0, losses / nadir, 1.0).log()
        add_to_window(self.memory, losses, tasks, self.config.window)
        # d/dL_i of mu log sum_j exp(log(L_j / nadir_j) / mu)
        weights = torch.softmax(excess / self.config.smoothing, 0) / losses
        return len(tasks) * weights / weights.sum()
