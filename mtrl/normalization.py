"""Return normalisation: a per-task affine between what a value network predicts and returns in reward units.

prediction in reward units = scale_i * network + shift_i. Shapes: B batch, M tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mtrl.registry import Registry


class ReturnNormalizer(nn.Module, ABC):
    """One set of statistics per task, shared by online and target networks."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters."""

    @abstractmethod
    def __init__(self, num_tasks: int, config: Any):
        super().__init__()

    @abstractmethod
    def denormalize(self, values: Tensor, task_ids: Tensor) -> Tensor:
        """Network values (..., B) in reward units."""

    @abstractmethod
    def normalize(self, returns: Tensor, task_ids: Tensor) -> Tensor:
        """Returns (..., B) in the units that the network predicts."""

    @abstractmethod
    def scale(self, task_ids: Tensor) -> Tensor | float:
        """Reward units per network unit, (B,) or one number."""


normalizers: Registry[ReturnNormalizer] = Registry("normalizer")


@normalizers.register("none")
class NoNormalizer(ReturnNormalizer):
    """Networks predict in reward units."""

    def __init__(self, num_tasks: int, config: Any):
        super().__init__(num_tasks, config)

    def denormalize(self, values: Tensor, task_ids: Tensor) -> Tensor:
        return values

    def normalize(self, returns: Tensor, task_ids: Tensor) -> Tensor:
        return returns

    def scale(self, task_ids: Tensor) -> float:
        return 1.0
