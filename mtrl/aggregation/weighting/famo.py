"""Fast adaptive multitask optimization (Liu et al., 2023, arXiv:2306.03792). Shapes: m tasks with samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from mtrl.aggregation.aggregator import LossWeighting, aggregators, gauge_of, positive
from mtrl.aggregation.task_losses import LossFunction, Parameters
from mtrl.aggregation.weighting.task_memory import adam_names, adam_step
from mtrl.types import Batch


@aggregators.register("famo")
class FAMO(LossWeighting):
    """Lets all losses fall at one relative rate; the losses after a step, computed once more, correct the weights."""

    needs_gauge = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        learning_rate: PositiveFloat = 0.025  # Adam, of the logits of the weights
        decay: NonNegativeFloat = 0.001  # of the logits, added to their gradient
        lower_bound: NonNegativeFloat = 0.0  # of the losses, subtracted from them

    def __init__(self, num_tasks: int, config: Config, generator: torch.Generator):
        super().__init__(num_tasks, config, generator, adam_names("logits"))
        self.config = config
        # Between a step's backward and its end.
        self._losses = torch.zeros(0)  # (m,)
        self._tasks = torch.zeros(0, dtype=torch.int64)

    def weights(self, losses: Tensor, tasks: Tensor) -> Tensor:
        self._tasks, self._losses = tasks, positive(losses - self.config.lower_bound)
        # Algorithm 1: z_i / L_i, scaled to sum to 1 (here to m)
        weights = torch.softmax(self.memory["logits"][tasks], 0) / self._losses
        return len(tasks) * weights / weights.sum()

    @torch.no_grad()
    def after_step(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> None:
        tasks, self._tasks = self._tasks, self._tasks[:0]
        if not len(tasks):
            return
        after = positive(gauge_of(loss_fn(parameters, batch))[tasks].double() - self.config.lower_bound)
        logits = self.memory["logits"][tasks]
        shares, progress = torch.softmax(logits, 0), self._losses.log() - after.log()
        # The softmax's Jacobian times log L(before) - log L(after)
        gradient = shares * (progress - shares @ progress) + self.config.decay * logits
        adam_step(self.memory, "logits", gradient, tasks, self.config.learning_rate)
