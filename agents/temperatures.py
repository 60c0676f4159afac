"""What soft actor-critic weighs log-probabilities with: one temperature per task, learnt or fixed.

Shapes: B batch, M tasks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from mtrl.aggregation import mean_per_task
from mtrl.errors import Diverged
from mtrl.flat_adam import FlatAdam
from mtrl.flat_parameters import FlatParameters
from mtrl.types import Metrics, State


class Temperatures(nn.Module, ABC):
    """One temperature per task."""

    @abstractmethod
    def forward(self, task_ids: Tensor) -> Tensor:
        """The temperature of each row's task (B,), outside the graph."""

    @abstractmethod
    def task_weights(self) -> Tensor:
        """M softmax(-log alpha) (M,): the released code of Soft Modularization; the paper writes softmax(-alpha)."""

    def step(self, log_prob: Tensor, task_ids: Tensor) -> Metrics:
        """Takes note of log pi (B,) of an update; what there is to report, each (M,)."""
        return {}

    def state(self) -> State:
        """What a restart needs beside parameters and buffers."""
        return {}

    def load_state(self, state: State) -> None:
        """Takes up a state written by `state`."""


class LearnedTemperatures(Temperatures):
    """Temperatures that rise while the entropy of their task is below its target (Haarnoja et al., 2018)."""

    target_entropy: Tensor

    def __init__(self, target_entropy: Tensor, initial_alpha: float, learning_rate: float):
        """target_entropy (M,)."""
        super().__init__()
        self.num_tasks = len(target_entropy)
        self.register_buffer("target_entropy", target_entropy, persistent=False)
        self.log_alpha = nn.Parameter(torch.full_like(target_entropy, math.log(initial_alpha)))
        self.flat = FlatParameters({"log_alpha": self.log_alpha})
        self.optimizer = FlatAdam(self.flat, learning_rate)

    def forward(self, task_ids: Tensor) -> Tensor:
        return self.log_alpha.detach().exp().index_select(0, task_ids)

    def task_weights(self) -> Tensor:
        return self.num_tasks * torch.softmax(-self.log_alpha.detach(), dim=0)

    def step(self, log_prob: Tensor, task_ids: Tensor) -> Metrics:
        """One step on -log alpha_i (log pi + target entropy_i).

        Raises Diverged before a step that is not finite. On a GPU that step does nothing: the actor's loss was not
        finite then either, which its group tells.
        """
        excess = mean_per_task(log_prob + self.target_entropy.index_select(0, task_ids), task_ids, self.num_tasks)
        self.log_alpha.grad = -excess
        left_out = torch.isfinite(excess).all().logical_not() if excess.is_cuda else None
        if left_out is None and not math.isfinite(excess.sum().item()):
            raise Diverged(f"gradient of log alpha is not finite: {self.log_alpha.grad.tolist()}")
        losses = -self.log_alpha.detach() * excess
        self.flat.gather_gradients()
        self.optimizer.step(left_out=left_out)
        return {"alpha_loss": losses, "alpha": self.log_alpha.detach().exp()}

    def state(self) -> dict[str, Any]:
        return self.optimizer.state()["log_alpha"]

    def load_state(self, state: State) -> None:
        self.optimizer.load_state({"log_alpha": state})


class FixedTemperature(Temperatures):
    """The same temperature for every task, for good; it may be 0."""

    alpha: Tensor

    def __init__(self, num_tasks: int, alpha: float, device: torch.device):
        super().__init__()
        self.register_buffer("alpha", torch.full((num_tasks,), alpha, device=device), persistent=False)

    def forward(self, task_ids: Tensor) -> Tensor:
        return self.alpha[task_ids]

    def task_weights(self) -> Tensor:
        return torch.ones_like(self.alpha)
