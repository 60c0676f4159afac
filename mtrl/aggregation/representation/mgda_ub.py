"""MGDA by its upper bound (Sener and Koltun, 2018, arXiv:1810.04650, section 3.3), in closed form.

Shapes: M tasks, B batch, d units of a representation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtrl.aggregation.aggregator import aggregators
from mtrl.aggregation.representation.representation_aggregator import RepresentationAggregator, sums_per_task
from mtrl.types import Batch


@aggregators.register("mgda-ub")
class MGDAUpperBound(RepresentationAggregator):
    """The shortest combination of the tasks' gradients by the representation, which do not overlap."""

    def __init__(self, num_tasks: int, config: Any, generator: torch.Generator):
        super().__init__(num_tasks, config, generator)
        self._weights: list[Tensor] = []  # of the networks, since the last `task_weights`

    def change(self, gradient: Tensor, representation: Tensor, batch: Batch, index: int) -> Tensor:
        weights = closed_form(sums_per_task(gradient.double().square().sum(1), batch)).to(gradient)
        self._weights.append(weights)
        return gradient * weights[batch.task_ids].unsqueeze(1)

    def task_weights(self) -> Tensor | None:
        weights, self._weights = self._weights, []
        return torch.stack(weights).mean(0) if weights else None


def closed_form(squared_norms: Tensor) -> Tensor:
    """m a (M,) for the a of m tasks with gradient that minimizes a' G a, G diagonal: a_i ~ 1 / G_ii, 0 without."""
    present = squared_norms > 0
    smallest = torch.where(present, squared_norms, torch.inf).min()
    inverse = torch.where(present, smallest / squared_norms, 0.0)
    return present.sum() * inverse / inverse.sum().clamp(min=1)
