"""Every task the same share. Shapes: M tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrl.scheduling.scheduler import TaskScheduler, schedulers
from mtrl.types import FinishedEpisode, SuiteSpec


@schedulers.register("uniform")
class Uniform(TaskScheduler):
    """Every task the same share."""

    def __init__(self, spec: SuiteSpec, config: Any, seed: int):
        super().__init__(spec, config, seed)
        self._weights = np.full(spec.num_tasks, 1 / spec.num_tasks)

    def on_episodes(self, episodes: Sequence[FinishedEpisode]) -> None:
        pass

    def weights(self) -> np.ndarray:
        return self._weights
