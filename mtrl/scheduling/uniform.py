"""Every task the same share. Shapes: M tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrl.scheduling.scheduler import TaskScheduler, schedulers
from mtrl.types import FinishedEpisode, TaskSuite


@schedulers.register("uniform")
class Uniform(TaskScheduler):
    """Every task the same share."""

    def __init__(self, suite: TaskSuite, config: Any, seed: int):
        self._weights = np.full(suite.num_tasks, 1 / suite.num_tasks)

    def on_episodes(self, episodes: Sequence[FinishedEpisode]) -> None:
        pass

    def weights(self) -> np.ndarray:
        return self._weights
