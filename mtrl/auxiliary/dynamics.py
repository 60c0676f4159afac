"""Models of the environment on the features. Shapes: B batch, F features, M tasks, A action, K steps.

Inverse dynamics (Pathak et al., 2017, arXiv:1705.05363): which action led from s to s'. Forward dynamics (Schwarzer et
al., 2021, arXiv:2007.05929): what the features will be after K actions.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium as gym
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from mtrl.auxiliary.auxiliary_task import AuxiliaryContext, AuxiliaryInputs, AuxiliaryTask, auxiliary_tasks
from mtrl.networks.layers import hidden_linear, one_hot, output_linear
from mtrl.per_task import mean_per_task


@auxiliary_tasks.register("inverse-dynamics")
class InverseDynamics(AuxiliaryTask):
    """The action, predicted from the features before and after it: cross-entropy, or squared error."""

    @dataclass(frozen=True, kw_only=True)
    class Config(AuxiliaryTask.Config):
        width: PositiveInt = 256  # units of the hidden layer

    horizon = 1

    def __init__(self, context: AuxiliaryContext, config: Config):
        super().__init__(context, config)
        space = context.spec.action_space
        self.discrete = isinstance(space, gym.spaces.Discrete)
        first = hidden_linear(2 * context.encoder.out_features, config.width)
        self.network = nn.Sequential(first, nn.ReLU(), output_linear(config.width, action_size(space)))

    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        following = inputs.encode(inputs.next_observation)
        predicted, action = self.network(torch.cat([inputs.features, following], dim=1)), inputs.batch.action
        if self.discrete:
            error = F.cross_entropy(predicted, action, reduction="none")
        else:
            error = (predicted - action).square().mean(1)
        return mean_per_task(error, inputs.batch.task_ids, self.num_tasks)


@auxiliary_tasks.register("forward-dynamics")
class ForwardDynamics(AuxiliaryTask):
    """The features after each of K actions: 1 minus the cosine of the predicted ones and a target encoder's."""

    @dataclass(frozen=True, kw_only=True)
    class Config(AuxiliaryTask.Config):
        steps: PositiveInt = 1  # K
        width: PositiveInt = 256  # units of the hidden layer
        target_rate: Annotated[float, Field(gt=0, le=1)] = 0.01  # Polyak rate of the target encoder

    def __init__(self, context: AuxiliaryContext, config: Config):
        super().__init__(context, config)
        self.horizon = config.steps
        self.target_rate = config.target_rate
        space, features = context.spec.action_space, context.encoder.out_features
        self.num_actions = action_size(space) if isinstance(space, gym.spaces.Discrete) else None
        first = hidden_linear(features + action_size(space), config.width)
        self.network = nn.Sequential(first, nn.ReLU(), output_linear(config.width, features))
        self.target = copy.deepcopy(context.encoder).requires_grad_(False)

    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        predicted = inputs.features
        total = count = torch.zeros_like(inputs.batch.reward)
        for action, following, valid in inputs.steps(self.horizon):
            given = action if self.num_actions is None else one_hot(action, self.num_actions)
            predicted = predicted + self.network(torch.cat([predicted, given], dim=1))
            with torch.no_grad():
                target = self.target(following)
            total = total + valid * (1 - F.cosine_similarity(predicted.float(), target.float(), dim=1))
            count = count + valid
        return mean_per_task(total / count, inputs.batch.task_ids, self.num_tasks)

    @torch.no_grad()
    def after_step(self, encoder: nn.Module) -> None:
        torch._foreach_lerp_(list(self.target.parameters()), list(encoder.parameters()), self.target_rate)


def action_size(space: Any) -> int:
    """Numbers that stand for an action: one per discrete action, one per dimension of a continuous one."""
    return int(space.n) if isinstance(space, gym.spaces.Discrete) else int(space.shape[0])
