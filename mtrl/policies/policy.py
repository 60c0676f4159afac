"""Policies compose architectures and an action head into a distribution. Shapes: B batch, F features, M tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mtrl.faults import WrongResult
from mtrl.networks.architecture import Output, PolicyArchitecture, run
from mtrl.policies.heads import ActionHead
from mtrl.registry import Registry


class MakeArchitecture(Protocol):
    """Makes a new architecture of the kind the run chose."""

    def __call__(self, in_features: int, out_features: int, *, num_tasks: int | None = None) -> PolicyArchitecture:
        """`num_tasks` None: the suite's."""


@dataclass(frozen=True)
class PolicyOutput:
    """The distribution for B observations, the output of the architecture, and the policy's regularization.

    Regularization is in reward units, as temperatures are; agents subtract it from rewards and values.
    """

    distribution: Any  # what the head makes: a SoftDistribution for SAC, a PolicyGradientDistribution for PPO
    network: Output

    def regularization(self, sample: Tensor) -> Tensor:
        """The regularization of samples of the distribution (B,), beside the agent's own entropy term."""
        return torch.zeros(len(sample), device=sample.device)

    def expected_regularization(self, log_prob: Tensor, temperature: Tensor) -> Tensor:
        """Its expectation under the distribution (B,), the entropy term included: temperature * E[log pi] by default.

        log_prob: E[log pi] (B,). temperature: of each sample's task (B,).
        """
        return temperature * log_prob


class Policy(nn.Module, ABC):
    """features and task -> distribution over actions."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters."""

    noise_size: int
    """Uniform numbers per sample that the architecture takes as `noise` (0: none)."""
    route_size: int
    """Choices per sample in the architecture's `Output.route` (0: none)."""
    temperature: float | None = None
    """Coefficient of log pi if the policy fixes it; None: the agent's own (learned temperatures, an entropy bonus)."""

    @abstractmethod
    def __init__(self, make_architecture: MakeArchitecture, in_features: int, head: ActionHead, config: Any):
        super().__init__()
        self.head = head

    @abstractmethod
    def forward(
        self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None, route: Tensor | None = None
    ) -> PolicyOutput:
        """features (B, F), task_ids (B,) int64, noise (B, noise_size) uniform, route (B, route_size) int64."""

    def __call__(self, *inputs: Any, **named: Any) -> PolicyOutput:
        """`forward`. Raises WrongResult for another type."""
        output = super().__call__(*inputs, **named)
        if not isinstance(output, PolicyOutput):
            raise WrongResult(f"returned {type(output).__name__} from forward, expected a PolicyOutput")
        return output


policies: Registry[Policy] = Registry("policy", Policy)


@policies.register("single")
class Single(Policy):
    """One architecture for all tasks."""

    def __init__(self, make_architecture: MakeArchitecture, in_features: int, head: ActionHead, config: Any):
        super().__init__(make_architecture, in_features, head, config)
        self.architecture = make_architecture(in_features, head.num_outputs)
        self.noise_size = self.architecture.noise_size
        self.route_size = self.architecture.route_size

    def forward(
        self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None, route: Tensor | None = None
    ) -> PolicyOutput:
        output = run(self.architecture, features, task_ids, noise, route)
        return PolicyOutput(self.head.distribution(output.values, task_ids), output)
