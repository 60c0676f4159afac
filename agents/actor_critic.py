"""An actor-critic network for policy-gradient agents. Shapes: B batch, F features."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn

from mtrl.encoders import Encoder
from mtrl.networks import Ensemble, Output
from mtrl.normalization import ValueOutput
from mtrl.policies import Policy, PolicyOutput


class ActorCriticOutput(NamedTuple):
    """The outputs for B observations."""

    features: Tensor  # (B, F)
    policy: PolicyOutput
    value: Output  # values (B,) in the normalizer's units


class ActorCritic(nn.Module):
    """A policy and a value network on the features of one encoder, which both train."""

    def __init__(self, encoder: Encoder, policy: Policy, value: Ensemble, output: ValueOutput):
        super().__init__()
        self.encoder = encoder
        self.policy = policy
        self.value = value
        self.output = output

    def forward(
        self,
        observation: Tensor,
        task_ids: Tensor,
        noise: Tensor | None = None,
        route: Tensor | None = None,
        value_noise: Tensor | None = None,
    ) -> ActorCriticOutput:
        """observation (B, *observation); noise and route as the policy takes them; value_noise (B, 1, size)."""
        features = self.encoder(observation)
        policy = self.policy(features, task_ids, noise, route)
        return ActorCriticOutput(features, policy, self.values(features, task_ids, value_noise))

    def values(self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None) -> Output:
        """features (B, F) -> values (B,) in the normalizer's units."""
        output = self.value(features, task_ids, noise)
        return replace(output, values=self.output(output.values, task_ids).flatten())
