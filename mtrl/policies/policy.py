"""Policies compose architectures and an action head into a distribution. Shapes: B batch, F features, M tasks."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mtrl.encoders.encoder import Encoder
from mtrl.errors import BadInput
from mtrl.faults import WrongResult
from mtrl.networks.architecture import Output, PolicyArchitecture, run
from mtrl.networks.layers import uniform_noise
from mtrl.policies.heads import ActionHead
from mtrl.registry import Registry


class MakeArchitecture(Protocol):
    """Makes a new architecture of the kind the run chose."""

    def __call__(self, in_features: int, out_features: int, *, num_tasks: int | None = None) -> PolicyArchitecture:
        """`num_tasks` None: the suite's."""


@dataclass(frozen=True)
class PolicyOutput:
    """The distribution for B observations, the output of the architecture, and the policy's regularization.

    Regularization is in reward units, as temperatures are; agents subtract it from rewards and values. So is
    distillation, which agents add to the policy's loss.
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

    def distillation(self) -> Tensor:
        """What parts of the policy learn from others by, beside the agent's loss: a loss of each sample (B,)."""
        return torch.zeros(len(self.network.values), device=self.network.values.device)


class PolicySample(NamedTuple):
    """Actions sampled for B observations."""

    policy: PolicyOutput
    noise: Tensor | None  # (B, noise_size) of the architecture
    action: Tensor  # before clipping


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
    parts: Sequence[str] = ()
    """Names of policies within this one that can be played instead, see `play`."""
    played: str | None = None
    """The part that is played; None: all of it."""

    @abstractmethod
    def __init__(self, make_architecture: MakeArchitecture, in_features: int, head: ActionHead, config: Any):
        super().__init__()
        self.head = head

    @abstractmethod
    def forward(
        self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None, route: Tensor | None = None
    ) -> PolicyOutput:
        """features (B, F), task_ids (B,) int64, noise (B, noise_size) uniform, route (B, route_size) int64."""

    def play(self, part: str) -> None:
        """From now on `forward` gives the distributions of a part, for evaluations. Raises BadInput for no part."""
        if part not in self.parts:
            known = f"has only {', '.join(self.parts)}" if self.parts else "has no parts"
            raise BadInput(f"policy_part {part!r}: the policy of this run {known}")
        self.played = part

    def sample(self, features: Tensor, task_ids: Tensor, generator: torch.Generator) -> PolicySample:
        """Actions for features (B, F); all randomness comes from `generator`."""
        noise = uniform_noise(generator, len(task_ids), self.noise_size)
        output = self(features, task_ids, noise)
        action = output.distribution.sample(self.head.sample_noise(len(task_ids), generator))
        return PolicySample(output, noise, action)

    def __call__(self, *inputs: Any, **named: Any) -> PolicyOutput:
        """`forward`. Raises WrongResult for another type."""
        output = super().__call__(*inputs, **named)
        if not isinstance(output, PolicyOutput):
            raise WrongResult(f"returned {type(output).__name__} from forward, expected a PolicyOutput")
        return output


class AveragedPolicy(nn.Module):
    """The exponential average of an encoder and a policy over updates: what evaluations play.

    A policy that learns changes within an episode, and single snapshots of it succeed less often than it does; their
    average does not chatter (Polyak and Juditsky, 1992, doi:10.1137/0330046). At the start the average is over the last
    ninth of the updates so far, as in TensorFlow's `ExponentialMovingAverage`: initial weights are soon forgotten.
    """

    def __init__(self, encoder: Encoder, policy: Policy, rate: float):
        """rate: share of the newest weights in the average; 1: the average is the newest weights."""
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.policy = copy.deepcopy(policy).requires_grad_(False)
        self.rate = rate
        self.num_updates = 0
        self._newest = (encoder, policy)  # in a tuple, so that they are no parts of this module

    @torch.no_grad()
    def update(self) -> None:
        """Takes up the newest weights."""
        self.num_updates += 1
        self._move(max(self.rate, 9 / (9 + self.num_updates)))

    @torch.no_grad()
    def follow(self) -> None:
        """Forgets the average: takes the newest weights alone."""
        self._move(1.0)

    def _move(self, rate: float) -> None:
        for newest, average in self.pairs():
            if isinstance(average, nn.Parameter):
                average.lerp_(newest, rate)  # average <- (1 - rate) average + rate newest
            else:
                average.copy_(newest)

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Parameters and buffers of the newest encoder and policy, each with its average."""
        for average, newest in zip((self.encoder, self.policy), self._newest, strict=True):
            # By name: an auxiliary task may have joined the newest one, which no evaluation plays.
            for name, value in average.named_parameters():
                yield newest.get_parameter(name), value
            for name, buffer in average.named_buffers():
                yield newest.get_buffer(name), buffer

    def mode(self, observation: Tensor, task_ids: Tensor) -> Tensor:
        """The most likely actions (B, A) or (B,), before clipping, for observations (B, *observation)."""
        return self.policy(self.encoder(observation), task_ids).distribution.mode()

    def sample(self, observation: Tensor, task_ids: Tensor, generator: torch.Generator) -> Tensor:
        """Sampled actions (B, A) or (B,), before clipping; all randomness comes from `generator`."""
        return self.policy.sample(self.encoder(observation), task_ids, generator).action

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.num_updates)

    def set_extra_state(self, state: Tensor) -> None:
        self.num_updates = int(state)


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
