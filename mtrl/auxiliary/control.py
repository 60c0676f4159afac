"""Auxiliary control (Jaderberg et al., 2017, arXiv:1611.05397, section 3.1): learn to change what is seen.

A Q network on the features learns, for each of C pseudo-rewards r_c, to choose the actions that change pixels or
features most, with the loss

    sum_c (r_c + gamma max_a Qbar_c(s', a) - Q_c(s, a))^2

whose Qbar is a target network on the features of now; with an agent that learns from each rollout in several epochs, on
those before the first. Q_c(s, a) = V_c + A_c(a) - mean A_c (dueling). Its actions are never played. Shapes: B batch,
F features, M tasks, A actions, C cells or features, H height, W width.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from mtrl.aggregation import TaskLosses
from mtrl.auxiliary.auxiliary_task import AuxiliaryContext, AuxiliaryInputs, AuxiliaryTask, auxiliary_tasks
from mtrl.errors import BadInput
from mtrl.networks.layers import hidden_linear, output_linear
from mtrl.per_task import mean_per_task
from mtrl.types import Batch

ROWS_AT_ONCE = 1024
"""Of a rollout, whose hidden maps together may not fit into memory."""


class Control(AuxiliaryTask):
    """Q-learning of C pseudo-rewards per sample, which a subclass defines."""

    @dataclass(frozen=True, kw_only=True)
    class Config(AuxiliaryTask.Config):
        discount: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of the pseudo-rewards, per env step
        target_rate: Annotated[float, Field(gt=0, le=1)] = 0.005  # Polyak rate of the target network

    horizon = 1
    rewards_read_features = False
    """Whether `rewards` reads the features of the observations."""

    def __init__(self, context: AuxiliaryContext, config: Any):
        super().__init__(context, config)
        self.discount, self.target_rate = config.discount, config.target_rate
        if not isinstance(context.spec.action_space, gym.spaces.Discrete):
            raise BadInput(
                f"auxiliary task {context.name!r} needs discrete actions, which suite {context.spec.name!r} has not"
            )
        self.num_actions = int(context.spec.action_space.n)

    def set_network(self, network: nn.Module) -> None:
        """network: features (B, F) -> (B, 1 + A, C), values and advantages."""
        self.network = network
        self.target = copy.deepcopy(network).requires_grad_(False)

    @abstractmethod
    def rewards(self, inputs: AuxiliaryInputs, next_features: Tensor) -> Tensor:
        """Pseudo-rewards (B, C), without a graph."""

    def on_rollout(self, batch: Batch, encode: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
        parts = []
        for rows in torch.arange(len(batch.reward), device=batch.reward.device).split(ROWS_AT_ONCE):
            part = batch.map_columns(lambda column, rows=rows: column[rows])  # type: ignore[misc]
            features = encode(part.observation) if self.rewards_read_features else None
            result = TaskLosses(part.reward.new_zeros(self.num_tasks), features=features)
            parts.append(self.targets(AuxiliaryInputs(part, result, encode, {})))
        return {"target": torch.cat(parts)}

    @torch.no_grad()
    def targets(self, inputs: AuxiliaryInputs) -> Tensor:
        """What the Q values (B, C) are to become."""
        next_features = inputs.encode(inputs.next_observation)
        following = greedy_q(self.target(next_features))
        alive = (~inputs.terminated).float().unsqueeze(1)
        return self.rewards(inputs, next_features) + self.discount * alive * following

    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        target = inputs.columns["target"] if "target" in inputs.columns else self.targets(inputs)
        q = self.q_of(inputs.features, inputs.batch.action)
        return mean_per_task((target - q).square().sum(1), inputs.batch.task_ids, self.num_tasks)

    def q_of(self, features: Tensor, action: Tensor) -> Tensor:
        """Q values (B, C) of actions (B,)."""
        return chosen_q(self.network(features), action)

    @torch.no_grad()
    def after_step(self, encoder: nn.Module) -> None:
        torch._foreach_lerp_(list(self.target.parameters()), list(self.network.parameters()), self.target_rate)


def chosen_q(outputs: Tensor, action: Tensor) -> Tensor:
    """Q values (B, C) of actions (B,), from values and advantages (B, 1 + A, C); never those of all actions."""
    value, advantage = outputs[:, 0], outputs[:, 1:]
    index = action.view(-1, 1, 1).expand(-1, 1, advantage.shape[2])
    return value.float() + advantage.gather(1, index).squeeze(1).float() - advantage.mean(1).float()


def greedy_q(outputs: Tensor) -> Tensor:
    """The largest Q values (B, C)."""
    value, advantage = outputs[:, 0], outputs[:, 1:]
    return value.float() + advantage.amax(1).float() - advantage.mean(1).float()


class Deconvolution(nn.Module):
    """Features (B, F) -> maps (B, channels, h * w), twice as fine as a hidden map."""

    def __init__(self, in_features: int, channels: int, size: tuple[int, int], hidden: int):
        super().__init__()
        self.size = size
        self.coarse = -(-size[0] // 2), -(-size[1] // 2)
        self.hidden = hidden
        self.linear = hidden_linear(in_features, hidden * self.coarse[0] * self.coarse[1])
        self.transposed = nn.ConvTranspose2d(hidden, channels, kernel_size=2, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        maps = self.transposed(self.hidden_maps(features))
        return maps[:, :, : self.size[0], : self.size[1]].flatten(2)

    def hidden_maps(self, features: Tensor) -> Tensor:
        """(B, hidden, h / 2, w / 2), rounded up."""
        return self.linear(features).relu().view(-1, self.hidden, *self.coarse)

    def chosen_q(self, features: Tensor, action: Tensor) -> Tensor:
        """`chosen_q` of `forward`: one map per sample, of mixed weights, in place of 1 + A."""
        weight, bias = self.transposed.weight, self.transposed.bias  # (hidden, 1 + A, 2, 2) and (1 + A,)
        assert bias is not None
        # V + A(a) - mean A is linear in the channels, and with kernel and stride 2 no two squares overlap.
        mixed = weight[:, :1] + weight[:, 1 + action] - weight[:, 1:].mean(1, keepdim=True)  # (hidden, B, 2, 2)
        squares = torch.einsum("bchw,cbij->bhiwj", self.hidden_maps(features), mixed).float()
        maps = squares.flatten(3, 4).flatten(1, 2) + (bias[0] + bias[1 + action] - bias[1:].mean()).view(-1, 1, 1)
        return maps[:, : self.size[0], : self.size[1]].flatten(1)


@auxiliary_tasks.register("pixel-control")
class PixelControl(Control):
    """Q-learning of how much the pixels of each cell of a grid change; for images and discrete actions."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Control.Config):
        coefficient: NonNegativeFloat = 0.05  # factor of the loss
        cell_size: PositiveInt = 4  # pixels per side of a cell
        channels: PositiveInt = 8  # of the hidden map

    def __init__(self, context: AuxiliaryContext, config: Config):
        super().__init__(context, config)
        space = context.spec.observation_space
        if len(space.shape) != 3:
            raise BadInput(
                f"auxiliary task {context.name!r} needs images (channels, height, width), and suite "
                f"{context.spec.name!r} has observations of shape {space.shape}"
            )
        self.cell_size = config.cell_size
        height, width = (size // config.cell_size for size in space.shape[1:])
        if not height * width:
            raise BadInput(
                f"auxiliary.{context.name}.cell_size: {config.cell_size} is larger than the images, "
                f"which are {space.shape[1]} x {space.shape[2]}"
            )
        self.frame_channels = context.spec.frame_shape[0]
        self.brightness = 255.0 if space.dtype == np.uint8 else 1.0
        self.set_network(
            Deconvolution(context.encoder.out_features, 1 + self.num_actions, (height, width), config.channels)
        )

    def q_of(self, features: Tensor, action: Tensor) -> Tensor:
        assert isinstance(self.network, Deconvolution)
        return self.network.chosen_q(features, action)

    def rewards(self, inputs: AuxiliaryInputs, next_features: Tensor) -> Tensor:
        frame = inputs.batch.observation[:, -self.frame_channels :]
        following = inputs.next_observation[:, -self.frame_channels :]
        return pixel_changes(frame, following, self.cell_size) / self.brightness


def pixel_changes(frame: Tensor, following: Tensor, cell_size: int) -> Tensor:
    """Mean absolute change of the pixels in each cell: frames (B, channels, H, W) -> (B, cells), row by row.

    Pixels that fill no cell, at the borders, do not count.
    """
    change = (following.float() - frame.float()).abs().mean(1)  # (B, H, W)
    for axis in (1, 2):
        rest = change.shape[axis] % cell_size
        change = change.narrow(axis, rest // 2, change.shape[axis] - rest)
    return F.avg_pool2d(change.unsqueeze(1), cell_size).flatten(1)


@auxiliary_tasks.register("feature-control")
class FeatureControl(Control):
    """Q-learning of how much each feature changes, relative to the mean change within the task; discrete actions."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Control.Config):
        coefficient: NonNegativeFloat = 1e-4  # factor of the loss

    rewards_read_features = True

    def __init__(self, context: AuxiliaryContext, config: Config):
        super().__init__(context, config)
        features = context.encoder.out_features
        layer = output_linear(features, (1 + self.num_actions) * features)
        self.set_network(nn.Sequential(layer, nn.Unflatten(1, (1 + self.num_actions, features))))

    def rewards(self, inputs: AuxiliaryInputs, next_features: Tensor) -> Tensor:
        return feature_changes(inputs.features, next_features, inputs.batch.task_ids, self.num_tasks)


def feature_changes(features: Tensor, following: Tensor, task_ids: Tensor, num_tasks: int) -> Tensor:
    """abs(h' - h) of features (B, F) over its mean within the task; 0 where nothing changes."""
    change = (following.float() - features.float()).abs()
    mean = mean_per_task(change.mean(1), task_ids, num_tasks)[task_ids]
    return change / mean.clamp(min=1e-8).unsqueeze(1)
