"""Gradient normalization (Chen et al., 2018, arXiv:1711.02257). Shapes: m tasks that take part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from mtrl.aggregation.aggregator import JacobianAggregator, PresentTasks, aggregators

FLOOR = 1e-3
"""Of a weight before they are normalized: a step as long as a gradient's norm may go below 0."""


@aggregators.register("gradnorm")
class GradNorm(JacobianAggregator):
    """Learns loss weights under which gradients have one norm, or a larger one where a loss has fallen less."""

    needs_gauge = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        alpha: NonNegativeFloat = 1.5  # how much the speed of learning counts
        learning_rate: PositiveFloat = 0.025  # of the weights

    def __init__(self, num_tasks: int, config: Config, generator: torch.Generator):
        super().__init__(num_tasks, config, generator, ("log_weight", "initial"))
        self.config = config

    def task_weights(self, gramian: Tensor, tasks: PresentTasks) -> Tensor:
        assert tasks.gauge is not None
        index, losses = tasks.indices, tasks.gauge
        known = self.memory["initial"][index]
        initial = torch.where(known > 0, known, losses)
        self.memory["initial"][index] = initial
        # Kept as a logarithm, so that what is not known yet is 1.
        weights = normalized(self.memory["log_weight"][index].exp())
        norms, speed = gramian.diagonal().sqrt(), losses / initial
        # Equation 2: every gradient's norm should be the mean one times (relative inverse training rate)^alpha
        wanted = (weights * norms).mean() * (speed / speed.mean()) ** self.config.alpha
        step = self.config.learning_rate * (weights * norms - wanted).sign() * norms
        self.memory["log_weight"][index] = normalized((weights - step).clamp(min=FLOOR)).log()
        return weights / len(weights)


def normalized(weights: Tensor) -> Tensor:
    """Weights (m,) scaled to mean 1."""
    return weights * (len(weights) / weights.sum())
