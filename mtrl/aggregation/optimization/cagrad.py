"""Conflict-averse gradient descent (Liu et al., 2021, arXiv:2110.14048, equation 3). Shapes: M tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtrl.aggregation.aggregator import JacobianAggregator, aggregators
from mtrl.aggregation.solvers import farthest_improvement


@aggregators.register("cagrad")
class CAGrad(JacobianAggregator):
    """The update that improves the worst task most, among those near the mean gradient.

    Solved exactly, in the primal form (equation 2). Divided by 1 + c, an option of the authors' code, so that equal
    gradients give `mean`.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        c: Annotated[float, Field(ge=0, lt=1)] = 0.5  # distance from the mean gradient, in its norms; 0: mean

    def __init__(self, num_tasks: int, config: Config, generator: torch.Generator):
        super().__init__(num_tasks, config, generator)
        self.config = config

    def weights(self, gramian: Tensor) -> Tensor:
        c = self.config.c
        return (1 / len(gramian) + farthest_improvement(gramian, c)) / (1 + c)
