"""Policies compose architectures and an action head into a distribution. Shapes: B batch, F features, M tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from mtrl.networks.architecture import Output, PolicyArchitecture, run
from mtrl.policies.heads import ActionHead
from mtrl.registry import Registry

MakeArchitecture = Callable[[int, int], PolicyArchitecture]
"""(in_features, out_features) -> a new architecture of the kind the run chose."""


class PolicyOutput(NamedTuple):
    """The distribution for B observations and what the architecture said beside it."""

    distribution: Any  # what the head makes: a SoftDistribution for SAC, a PolicyGradientDistribution for PPO
    network: Output


class Policy(nn.Module, ABC):
    """features and task -> distribution over actions."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters."""

    draw_size: int
    """Uniform numbers per row that the architecture wants as `draw` (0: none)."""
    route_size: int
    """Choices per row that its `Output.route` holds (0: it has none)."""
    temperature: float | None = None
    """What log pi costs, where the policy fixes it; None: the agent's own entropy term (temperatures, a bonus)."""

    @abstractmethod
    def __init__(self, make_architecture: MakeArchitecture, in_features: int, head: ActionHead, config: Any):
        super().__init__()
        self.head = head

    @abstractmethod
    def forward(self, features: Tensor, task_ids: Tensor, draw: Tensor | None = None) -> PolicyOutput:
        """features (B, F), task_ids (B,) int64, draw (B, draw_size) uniform or a route (B, route_size) int64."""


policies: Registry[Policy] = Registry("policy")


@policies.register("single")
class Single(Policy):
    """One architecture for all tasks."""

    def __init__(self, make_architecture: MakeArchitecture, in_features: int, head: ActionHead, config: Any):
        super().__init__(make_architecture, in_features, head, config)
        self.architecture = make_architecture(in_features, head.num_outputs)
        self.draw_size = self.architecture.draw_size
        self.route_size = self.architecture.route_size

    def forward(self, features: Tensor, task_ids: Tensor, draw: Tensor | None = None) -> PolicyOutput:
        output = run(self.architecture, features, task_ids, draw)
        return PolicyOutput(self.head.distribution(output.values, task_ids), output)
