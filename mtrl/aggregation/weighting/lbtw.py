"""Loss-balanced task weighting (Liu et al., 2019, AAAI). Shapes: m tasks with samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from mtrl.aggregation.aggregator import LossWeighting, aggregators
from mtrl.aggregation.weighting.task_memory import WINDOW, add_to_window


@aggregators.register("lbtw")
class LossBalanced(LossWeighting):
    """More weight for tasks whose loss has fallen less: (L / L0)^alpha, 1 until the initial loss L0 is known."""

    needs_gauge = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        alpha: PositiveFloat = 0.5  # exponent
        window: PositiveInt = 100  # L0 is the mean loss of the second so many updates

    def __init__(self, num_tasks: int, config: Config, generator: torch.Generator):
        super().__init__(num_tasks, config, generator, (*WINDOW, "initial"))
        self.config = config

    def weights(self, losses: Tensor, tasks: Tensor) -> Tensor:
        memory = self.memory
        add_to_window(memory, losses, tasks, self.config.window)
        memory["initial"] = torch.where(memory["windows"] == 2, memory["last_mean"], memory["initial"])
        initial = memory["initial"][tasks]
        return torch.where(initial > 0, losses / initial, 1.0) ** self.config.alpha
