"""The interface: one vector says how much each task is trained, and the mode says by which means.

`sample`: the vector gives shares. The environments (which task next) and the buffer (share of a batch) read it. N slots
read it stratified (`mtrl.env.episodes.RandomEpisodes`): of N episodes begun under the same shares a task gets its own
to within one episode. The same share holds in every batch.

`weight`: episodes and batches have equal shares, and the vector, scaled to mean 1, multiplies the tasks' losses before
any aggregator. Under the same policy and data, the gradient of `mean` has the same expectation as with `sample`.

Shapes: M tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mtrl.faults import WrongResult
from mtrl.registry import Registry
from mtrl.types import FinishedEpisode, State, SuiteSpec, TaskWeights

Mode = Literal["sample", "weight"]


class TaskScheduler(ABC):
    """Decides how much each task is trained."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters; those of a subclass derive from these."""

        mode: Mode = "sample"  # what the weights decide: shares of episodes and batches, or factors of the losses

    def __init__(self, spec: SuiteSpec, config: Any, seed: int):
        """Raises BadInput for a suite that it cannot schedule; made before anything is started."""
        self.config = config
        self.mode: Mode = config.mode
        self.num_tasks = spec.num_tasks

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


def task_weights(scheduler: TaskScheduler, num_tasks: int) -> TaskWeights:
    """What the scheduler's `weights` (M,) mean in its mode. Raises WrongResult unless they are shares."""
    weights = scheduler.weights()
    if not isinstance(weights, np.ndarray):
        raise WrongResult(f"returned {type(weights).__name__} from weights, expected an array")
    if weights.shape != (num_tasks,) or not (weights.min() >= 0 and abs(weights.sum() - 1) < 1e-6):
        found = f"shape {weights.shape}" if weights.shape != (num_tasks,) else str(weights.tolist())
        raise WrongResult(f"returned {found} from weights, expected shares of {num_tasks} tasks that sum to 1")
    if scheduler.mode == "sample":
        return TaskWeights(shares=weights, loss_weights=np.ones(num_tasks))
    return TaskWeights(shares=np.full(num_tasks, 1 / num_tasks), loss_weights=num_tasks * weights)


schedulers: Registry[TaskScheduler] = Registry("scheduler", TaskScheduler)
