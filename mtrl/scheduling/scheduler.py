"""The interface: one weight vector, read by the environments (which task next) and the buffer (share of a batch).

N slots read the weights stratified (`mtrl.env.episodes.RandomEpisodes`): of N episodes begun under the same weights a
task gets its share to within one episode. The same share holds in every batch. Shapes: M tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtrl.faults import WrongResult
from mtrl.registry import Registry
from mtrl.types import FinishedEpisode, State, SuiteSpec


class TaskScheduler(ABC):
    """Decides how much each task is played and learnt from."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters."""

    @abstractmethod
    def __init__(self, spec: SuiteSpec, config: Any, seed: int):
        """Raises BadInput for a suite that it cannot schedule; made before anything is started."""

    @abstractmethod
    def on_episodes(self, episodes: Sequence[FinishedEpisode]) -> None:
        """Called with the episodes that ended since the last call. Any costly decision is made here."""

    @abstractmethod
    def weights(self) -> np.ndarray:
        """Share (M,) float64 of each task, summing to one. Called several times per vector step; changes nothing."""

    def state(self) -> State:
        """What a restart needs."""
        return {}

    def load_state(self, state: State) -> None:  # noqa: B027 - nothing to take up by default
        """Takes up a state written by `state`. Raises KeyError or ValueError where it does not fit."""


def shares_of(scheduler: TaskScheduler, num_tasks: int) -> np.ndarray:
    """The scheduler's `weights` (M,). Raises WrongResult unless they are shares."""
    weights = scheduler.weights()
    if not isinstance(weights, np.ndarray):
        raise WrongResult(f"returned {type(weights).__name__} from weights, expected an array")
    if weights.shape != (num_tasks,) or not (weights.min() >= 0 and abs(weights.sum() - 1) < 1e-6):
        found = f"shape {weights.shape}" if weights.shape != (num_tasks,) else str(weights.tolist())
        raise WrongResult(f"returned {found} from weights, expected shares of {num_tasks} tasks that sum to 1")
    return weights


schedulers: Registry[TaskScheduler] = Registry("scheduler", TaskScheduler)
