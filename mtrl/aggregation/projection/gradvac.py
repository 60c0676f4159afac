"""Gradient vaccine (Wang et al., 2021, arXiv:2010.05874, algorithm 1), on the Gramian.

The paper sums the changed gradients; here they are averaged, so that equal gradients give `mean`. The target cosine of
a pair stays below MAX_TARGET: at 1, the step of the paper divides by 0. Shapes: M tasks, m tasks with a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtrl.aggregation.aggregator import JacobianAggregator, PresentTasks, aggregators
from mtrl.types import State

MAX_TARGET = 0.999


@aggregators.register("gradvac")
class GradVac(JacobianAggregator):
    """PCGrad with a target cosine for each pair of tasks, a moving average of their cosines, instead of 0."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        rate: Annotated[float, Field(ge=0, le=1)] = 0.01  # of the moving average; 0: PCGrad

    def __init__(self, num_tasks: int, config: Config, generator: torch.Generator):
        super().__init__(num_tasks, config, generator)
        self.config = config
        self.targets = torch.zeros(num_tasks, num_tasks, dtype=torch.float64)

    def task_weights(self, gramian: Tensor, tasks: PresentTasks) -> Tensor:
        # As in PCGrad, step s adjusts every task i to its s-th other task.
        num_tasks = len(gramian)
        order = torch.rand(num_tasks, num_tasks, generator=self.generator).argsort(1)
        combination = torch.eye(num_tasks, dtype=gramian.dtype)  # row i: task i's gradient in terms of all
        own = torch.arange(num_tasks)
        norms = gramian.diagonal().sqrt()
        targets = self.targets[tasks.indices][:, tasks.indices]
        for others in order.T:
            products = combination @ gramian
            changed_norms = (products * combination).sum(1).clamp(min=0).sqrt()
            scale = changed_norms * norms[others]
            cosine = torch.where(scale > 0, products[own, others] / scale, 1.0).clamp(-1, 1)
            target = targets[own, others]
            sine, target_sine = (1 - cosine.square()).sqrt(), (1 - target.square()).sqrt()
            # Equation 3: adds of task j's gradient what makes the cosine the target.
            factor = changed_norms * (target * sine - cosine * target_sine) / (norms[others] * target_sine)
            combination[own, others] += torch.where((cosine < target) & (others != own), factor, 0.0)
            average = (1 - self.config.rate) * target + self.config.rate * cosine
            targets[own, others] = torch.where(others != own, average, 0.0).clamp(-MAX_TARGET, MAX_TARGET)
        self.targets[tasks.indices[:, None], tasks.indices] = targets
        return combination.mean(0)

    def state(self) -> State:
        return super().state() | {"targets": self.targets.clone()}

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self.targets = state["targets"].clone()
