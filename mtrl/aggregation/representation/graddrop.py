"""Gradient sign dropout (Chen et al., 2020, arXiv:2010.06808, algorithm 1, for tasks that do not share rows).

Shapes: M tasks, B batch, d units of a representation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtrl.aggregation.aggregator import aggregators
from mtrl.aggregation.representation.representation_aggregator import RepresentationAggregator, sums_per_task
from mtrl.types import Batch


@aggregators.register("graddrop")
class GradDrop(RepresentationAggregator):
    """At every unit one sign is drawn, likelier that of the larger gradients; tasks of the other sign are dropped."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        leak: Annotated[float, Field(ge=0, le=1)] = 0.0  # part of a dropped gradient that is kept

    def __init__(self, num_tasks: int, config: Config, generator: torch.Generator):
        super().__init__(num_tasks, config, generator)
        self.leak = config.leak

    def change(self, gradient: Tensor, representation: Tensor, batch: Batch, index: int) -> Tensor:
        # Rows have different inputs: gradients by a unit are comparable where its sign is.
        of_tasks = sums_per_task(representation.sign() * gradient, batch)  # (M, d)
        drawn = torch.rand(gradient.shape[1], generator=self.generator).to(gradient.device)
        kept = kept_signs(of_tasks, drawn)
        factor = self.leak + (1 - self.leak) * kept.to(gradient.dtype)
        return gradient * factor[batch.task_ids]


def positive_purity(gradients: Tensor) -> Tensor:
    """P (d,) of gradients (M, d): (1 + sum g / sum |g|) / 2 (equation 1); a half where all are 0."""
    total = gradients.abs().sum(0)
    return (1 + torch.where(total > 0, gradients.sum(0) / total, 0.0)) / 2


def kept_signs(gradients: Tensor, drawn: Tensor) -> Tensor:
    """Which gradients (M, d) stay: the positive ones where P is above the uniform numbers drawn (d,), else the rest."""
    positive = positive_purity(gradients) > drawn
    return torch.where(positive, gradients >= 0, gradients <= 0)
