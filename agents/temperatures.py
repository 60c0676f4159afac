"""Temperatures of soft actor-critic: one per task, learned or fixed.

Shapes: B batch, M tasks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from mtrl.errors import Diverged
from mtrl.per_task import mean_per_task
from mtrl.types import Metrics, State


class Temperatures(nn.Module, ABC):
    """One temperature per task."""

    @abstractmethod
    def forward(self, task_ids: Tensor) -> Tensor:
        """The temperature of each sample's task (B,), outside the graph."""

    @abstractmethod
    def task_weights(self) -> Tensor:
        """M softmax(-log alpha) (M,): the released code of Soft Modularization; the paper writes softmax(-alpha)."""

    def step(self, log_prob: Tensor, task_ids: Tensor) -> Metrics:
        """Learns from log pi (B,) of an update; returns metrics, each (M,)."""
        return {}

    def state(self) -> State:
        """The state beside parameters and buffers."""
        return {}

    def load_state(self, state: State) -> None:
        """Loads a state written by `state`."""


class LearnedTemperatures(Temperatures):
    """Temperatures that rise while the entropy of their task is below its target (Haarnoja et al., 2018)."""

    target_entropy: Tensor

    def __init__(self, target_entropy: Tensor, initial_alpha: float, learning_rate: float):
        """target_entropy (M,)."""
        super().__init__()
        self.num_tasks = len(target_entropy)
        self.register_buffer("target_entropy", target_entropy, persistent=False)
        self.log_alpha = nn.Parameter(torch.full_like(target_entropy, math.log(initial_alpha)))
        self.optimizer = torch.optim.Adam(
            [self.log_alpha], lr=learning_rate, fused=True, capturable=target_entropy.is_cuda
        )

    def forward(self, task_ids: Tensor) -> Tensor:
        return self.log_alpha.detach().exp().index_select(0, task_ids)

    def task_weights(self) -> Tensor:
        return self.num_tasks * torch.softmax(-self.log_alpha.detach(), dim=0)

    def step(self, log_prob: Tensor, task_ids: Tensor) -> Metrics:
        """One step on -log alpha_i (log pi + target entropy_i).

        Raises Diverged before a step that is not finite. On a GPU that step is skipped: the actor's loss was not finite
        then either, which its group reports.
        """
        # d/d log alpha_i = -mean_i(log pi + target entropy_i)
        shortfall = mean_per_task(log_prob + self.target_entropy.index_select(0, task_ids), task_ids, self.num_tasks)
        self.log_alpha.grad = -shortfall
        finite = torch.isfinite(shortfall).all()
        if shortfall.is_cuda:
            self.optimizer.found_inf = finite.logical_not().float()  # type: ignore[attr-defined]
        elif not finite:
            raise Diverged(f"gradient of log alpha is not finite: {self.log_alpha.grad.tolist()}")
        losses = -self.log_alpha.detach() * shortfall
        self.optimizer.step()
        return {"alpha_loss": losses, "alpha": self.log_alpha.detach().exp()}

    def state(self) -> State:
        return dict(self.optimizer.state.get(self.log_alpha, {}))

    def load_state(self, state: State) -> None:
        self.optimizer.state[self.log_alpha] = {name: value.clone().to(self.log_alpha.device) for name, value in state.items()}


class FixedTemperature(Temperatures):
    """The same constant temperature for every task; it may be 0."""

    alpha: Tensor

    def __init__(self, num_tasks: int, alpha: float, device: torch.device):
        super().__init__()
        self.register_buffer("alpha", torch.full((num_tasks,), alpha, device=device), persistent=False)

    def forward(self, task_ids: Tensor) -> Tensor:
        return self.alpha[task_ids]

    def task_weights(self) -> Tensor:
        return torch.ones_like(self.alpha)
