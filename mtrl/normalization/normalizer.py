"""Return normalisation: a per-task affine between what a value network predicts and returns in reward units.

prediction in reward units = scale_i * network + shift_i. Shapes: K networks, B batch, M tasks, N slots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtrl.faults import WrongResult
from mtrl.registry import Registry
from mtrl.types import EnvStep


class ValueOutput(nn.Module):
    """Output layer of the value networks. Identity unless the normalizer defines one."""

    def forward(self, values: Tensor, task_ids: Tensor) -> Tensor:
        """values (K, B, out), task_ids (B,) -> (K, B, out)."""
        return values


class ReturnNormalizer(nn.Module, ABC):
    """One set of statistics per task, shared by online and target networks."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters."""

    @abstractmethod
    def __init__(self, num_tasks: int, config: Any, discount: float = 0.99):
        """discount: the agent's, per env step."""
        super().__init__()

    def reward(self, rewards: Tensor, task_ids: Tensor) -> Tensor:
        """Rewards (...) as learning sees them; returns in "reward units" are sums of these."""
        return rewards

    @abstractmethod
    def denormalize(self, values: Tensor, task_ids: Tensor) -> Tensor:
        """Network values (..., B) in reward units."""

    @abstractmethod
    def normalize(self, returns: Tensor, task_ids: Tensor) -> Tensor:
        """Returns (..., B) in the units that the network predicts."""

    @abstractmethod
    def scale(self, task_ids: Tensor) -> Tensor | float:
        """Reward units per network unit, (B,) or one number."""

    def regularization_scale(self, task_ids: Tensor) -> Tensor | float:
        """Reward units per unit of an entropy or KL coefficient, (B,) or one number.

        1 unless the normalizer divides the rewards themselves: how values are represented must not change what an
        agent converges to.
        """
        return 1.0

    def make_output(self, num_networks: int) -> ValueOutput:
        """The output layer that the agent puts behind `num_networks` value networks and trains with them."""
        return ValueOutput()

    def on_env_step(self, step: EnvStep) -> None:
        """Updates statistics of rewards with one vector step, in time order."""

    def end_running_episodes(self) -> None:
        """Called where a resumed run begins new episodes in all slots: forgets what it sums up over an episode."""

    def on_reset(self) -> None:
        """Called before the first update and whenever networks start anew, for units that may change only then."""

    def update_statistics(self, returns: Tensor, task_ids: Tensor, outputs: Sequence[ValueOutput]) -> None:
        """Updates statistics with a batch of returns (B,) in reward units, before a gradient step on them.

        `outputs` are all that this normalizer made. Changes nothing if a return is not finite.
        """


def refuse_wrong_shapes(normalizer: ReturnNormalizer, num_tasks: int) -> None:
    """Raises WrongResult for a normalizer whose results are not shaped as its arguments."""
    values, task_ids = torch.zeros(2, num_tasks), torch.arange(num_tasks)
    for name in ("reward", "denormalize", "normalize"):
        result = getattr(normalizer, name)(values, task_ids)
        if not isinstance(result, Tensor) or result.shape != values.shape:
            found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise WrongResult(f"returned {found} from {name}, expected {tuple(values.shape)}")
    for name in ("scale", "regularization_scale"):
        result = getattr(normalizer, name)(task_ids)
        if isinstance(result, Tensor) and result.shape not in ((), task_ids.shape):
            raise WrongResult(f"returned {tuple(result.shape)} from {name}, expected {tuple(task_ids.shape)}")


normalizers: Registry[ReturnNormalizer] = Registry("normalizer", ReturnNormalizer)


@normalizers.register("none")
class NoNormalizer(ReturnNormalizer):
    """Networks predict in reward units."""

    def __init__(self, num_tasks: int, config: Any, discount: float = 0.99):
        super().__init__(num_tasks, config, discount)

    def denormalize(self, values: Tensor, task_ids: Tensor) -> Tensor:
        return values

    def normalize(self, returns: Tensor, task_ids: Tensor) -> Tensor:
        return returns

    def scale(self, task_ids: Tensor) -> float:
        return 1.0
