"""What chooses in a routing network (Rosenbaum et al., 2017, arXiv:1711.01239): a table for each task, or one network.

Shapes: B batch, M tasks, L depths, K choices, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtrl.networks.architecture import SelfUpdating
from mtrl.networks.layers import hidden_linear, one_hot, output_linear, task_rows

EXPLORATION = 0.05
"""Probability that weighted policy learning leaves to uniform choices, so that none is given up for good."""


class Router(nn.Module, ABC):
    """Chooses at every depth."""

    @abstractmethod
    def forward(self, values: Tensor, task_ids: Tensor, depth: int) -> Tensor:
        """Log-probabilities (B, K) of the choices at `depth`; values (B, W) are what the chosen block would see."""


class SharedRouter(Router):
    """One network for all tasks and depths; it sees values, task and depth."""

    def __init__(self, width: int, num_tasks: int, num_depths: int, num_choices: int, hidden: int):
        super().__init__()
        self.num_tasks, self.num_depths = num_tasks, num_depths
        inputs = width + num_tasks + num_depths
        self.network = nn.Sequential(
            hidden_linear(inputs, hidden), nn.ReLU(inplace=True), output_linear(hidden, num_choices)
        )

    def forward(self, values: Tensor, task_ids: Tensor, depth: int) -> Tensor:
        """values (B, W), task_ids (B,) int64 -> (B, K)."""
        place = one_hot(torch.full_like(task_ids, depth), self.num_depths)
        return F.log_softmax(self.network(torch.cat([values, one_hot(task_ids, self.num_tasks), place], dim=-1)), -1)


class TabularRouter(Router):
    """Choices that task and depth alone decide: one agent for each pair, in the paper's words."""

    @abstractmethod
    def log_table(self) -> Tensor:
        """Log-probabilities (M, L, K)."""

    def forward(self, values: Tensor, task_ids: Tensor, depth: int) -> Tensor:
        """task_ids (B,) int64 -> (B, K)."""
        return task_rows(self.log_table()[:, depth], task_ids)

    def collaboration(self, num_blocks: int) -> Tensor:
        """Expected share of all tasks' use that the blocks of a task's route have (M,), summed over depths.

        The paper's collaboration reward, with the shares that the present tables give in place of a running average.
        Only the first `num_blocks` choices are blocks that can be shared. The shares are a reward: no gradient.
        """
        blocks = self.log_table()[..., :num_blocks].exp()
        return (blocks @ blocks.detach().mean((0, 1))).sum(-1)


class SoftmaxTable(TabularRouter):
    """Learned logits, which move `rate` times as fast as the weights of a network under the same Adam.

    They start normal with standard deviation `spread`, so that tasks differ in their routes from the first step on. If
    all routes train the blocks alike, the router has nothing to choose by, and the most likely route, which evaluations
    take, is hardly better than the others.
    """

    def __init__(self, num_tasks: int, num_depths: int, num_choices: int, rate: float, spread: float):
        super().__init__()
        self.rate = rate
        self.logits = nn.Parameter(spread / rate * torch.randn(num_tasks, num_depths, num_choices))

    def log_table(self) -> Tensor:
        return F.log_softmax(self.rate * self.logits, dim=-1)


class WeightedPolicyLearner(TabularRouter, SelfUpdating):
    """The probabilities themselves, moved by the weighted policy learner (Abdallah and Lesser, 2006, 2008).

    With V the objective and its gradient taken relative to its mean under pi:
    Delta(a) = rate dV/dpi(a) * (pi(a) if dV/dpi(a) < 0 else 1 - pi(a)), and pi <- the nearest distribution to
    pi + Delta with every probability EXPLORATION / K at least. So it is slow towards certainty and quick to leave it,
    which lets learners settle that are each other's environment. (The gradient has 1 / pi(a) for every choice that was
    drawn; the routing paper's update, once per choice, has not.)
    """

    def __init__(self, num_tasks: int, num_depths: int, num_choices: int, rate: float):
        super().__init__()
        self.rate, self.floor = rate, EXPLORATION / num_choices
        self.probabilities = nn.Parameter(torch.full((num_tasks, num_depths, num_choices), 1 / num_choices))

    def log_table(self) -> Tensor:
        return self.probabilities.log()

    @torch.no_grad()
    def step(self, shares: Tensor) -> None:
        assert self.probabilities.grad is not None
        # Of each task's own objective: how many tasks share the batch must not change a table's step.
        own = torch.where(shares > 0, 1 / shares, 0.0).view(-1, 1, 1)
        gain, probabilities = -self.probabilities.grad * own, self.probabilities
        gain = gain - (probabilities * gain).sum(-1, keepdim=True)
        weight = torch.where(gain < 0, probabilities, 1 - probabilities)
        probabilities.copy_(onto_simplex(probabilities + self.rate * weight * gain, self.floor))


def onto_simplex(values: Tensor, floor: float) -> Tensor:
    """The nearest vectors (..., K) whose entries are `floor` at least and sum to 1 (Duchi et al., 2008, figure 1)."""
    num_values = values.shape[-1]
    above = values - floor
    ordered = above.sort(descending=True).values
    counts = torch.arange(1, num_values + 1, device=values.device)
    excess = (ordered.cumsum(-1) - (1 - num_values * floor)) / counts
    num_positive = (ordered > excess).sum(-1, keepdim=True)
    return (above - excess.gather(-1, num_positive - 1)).clamp(min=0) + floor
