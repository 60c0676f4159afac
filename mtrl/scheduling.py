"""Task scheduling: one weight vector, read by the environments (which task next) and the buffer (share of a batch).

Shapes: M tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtrl.registry import Registry
from mtrl.types import FinishedEpisode, State, TaskSuite


class TaskScheduler(ABC):
    """Decides how much each task is played and learnt from."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters."""

    @abstractmethod
    def __init__(self, suite: TaskSuite, config: Any, seed: int): ...

    @abstractmethod
    def observe(self, episodes: Sequence[FinishedEpisode]) -> None:
        """Takes note of the episodes that ended since the last call."""

    @abstractmethod
    def weights(self) -> np.ndarray:
        """Share (M,) float64 of each task, summing to one."""

    def state(self) -> State:
        """What a restart needs."""
        return {}

    def load_state(self, state: State) -> None:  # noqa: B027 - nothing to take up by default
        """Takes up a state written by `state`."""


schedulers: Registry[TaskScheduler] = Registry("scheduler")


@schedulers.register("uniform")
class Uniform(TaskScheduler):
    """Every task the same share."""

    def __init__(self, suite: TaskSuite, config: Any, seed: int):
        self._weights = np.full(suite.num_tasks, 1 / suite.num_tasks)

    def observe(self, episodes: Sequence[FinishedEpisode]) -> None:
        pass

    def weights(self) -> np.ndarray:
        return self._weights
