"""Dynamic weight average (Liu et al., 2019, arXiv:1803.10704, equation 7). Shapes: m tasks with samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from mtrl.aggregation.aggregator import LossWeighting, aggregators
from mtrl.aggregation.weighting.task_memory import WINDOW, add_to_window


@aggregators.register("dwa")
class DynamicWeightAverage(LossWeighting):
    """More weight for tasks whose loss falls slowly: softmax of the ratio of its means over the last two windows."""

    needs_gauge = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        temperature: PositiveFloat = 2.0  # of the softmax; large: equal weights
        window: PositiveInt = 1000  # updates behind a mean; the paper: one epoch

    def __init__(self, num_tasks: int, config: Config, generator: torch.Generator):
        super().__init__(num_tasks, config, generator, WINDOW)
        self.config = config

    def weights(self, losses: Tensor, tasks: Tensor) -> Tensor:
        add_to_window(self.memory, losses, tasks, self.config.window)
        last, before, windows = (self.memory[name][tasks] for name in ("last_mean", "mean_before", "windows"))
        ratio = torch.where(windows >= 2, last / before, 1.0)
        return len(tasks) * torch.softmax(ratio / self.config.temperature, 0)
