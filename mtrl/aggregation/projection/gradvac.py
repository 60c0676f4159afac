"""Gradient vaccine (Wang et al., 2021, arXiv:2010.05874, algorithm 1), on the Gramian.

The paper sums the changed gradients; here they are averaged, so that equal gradients give `mean`. The target cosine of
a pair stays below MAX_TARGET: at 1, the step of the paper divides by 0. Shapes: M tasks, m tasks with a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
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
        # As in PCGrad, step s adjusts every task i to its s-th other task. In NumPy: these are many small operations.
        num_tasks = len(gramian)
        order = torch.rand(num_tasks, num_tasks, generator=self.generator).argsort(1).numpy()
        products_of_gradients, norms = gramian.numpy(), gramian.diagonal().sqrt().numpy()
        targets = self.targets[tasks.indices][:, tasks.indices].numpy()
        tangents = targets / np.sqrt(1 - targets**2)
        own = np.arange(num_tasks)
        cosines, combination = np.eye(num_tasks), np.eye(num_tasks)  # row i: task i's gradient in terms of all
        for others in order.T:
            products = combination @ products_of_gradients
            changed_norms = np.sqrt((products * combination).sum(1).clip(0))
            scale = changed_norms * norms[others]
            cosine = np.divide(products[own, others], scale, out=np.ones(num_tasks), where=scale > 0).clip(-1, 1)
            # Equation 3: adds of task j's gradient what makes the cosine the target.
            factor = changed_norms / norms[others] * (tangents[own, others] * np.sqrt(1 - cosine**2) - cosine)
            combination[own, others] += np.where((cosine < targets[own, others]) & (others != own), factor, 0.0)
            cosines[own, others] = cosine
        averages = ((1 - self.config.rate) * targets + self.config.rate * cosines).clip(-MAX_TARGET, MAX_TARGET)
        np.fill_diagonal(averages, 0.0)
        self.targets[tasks.indices[:, None], tasks.indices] = torch.from_numpy(averages)
        return torch.from_numpy(combination.mean(0))

    def state(self) -> State:
        return super().state() | {"targets": self.targets.clone()}

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self.targets = state["targets"].clone()
