"""Bargaining between tasks: Nash-MTL and its generalization FairGrad. Shapes: M tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtrl.aggregation.aggregator import JacobianAggregator, aggregators
from mtrl.aggregation.solvers import fair_weights


@aggregators.register("nash-mtl")
class NashMTL(JacobianAggregator):
    """The Nash bargaining solution G a = 1/a (Navon et al., 2022, arXiv:2202.01017, claim 3.1).

    Solved exactly at every update, where the paper approximates it now and then; the weights are scaled to sum 1.
    Multiplying a task's loss by a constant does not change its part of the direction.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        weights = fair_weights(gramian, exponent=1.0)
        return weights / weights.sum()


@aggregators.register("fairgrad")
class FairGrad(JacobianAggregator):
    """Alpha-fair improvements of the tasks: G a = a^(-1/alpha) (Ban and Ji, 2024, arXiv:2402.15638, equation 4).

    Solved exactly; the weights are scaled to sum 1.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        alpha: Annotated[float, Field(ge=0.05)] = 2.0  # 1: Nash-MTL; small: mean; large: max-min of the improvements

    def __init__(self, num_tasks: int, config: Config, generator: torch.Generator):
        super().__init__(num_tasks, config, generator)
        self.config = config

    def weights(self, gramian: Tensor) -> Tensor:
        weights = fair_weights(gramian, exponent=1 / self.config.alpha)
        return weights / weights.sum()
