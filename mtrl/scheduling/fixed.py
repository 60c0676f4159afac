"""Shares that a person gives and nothing changes. Shapes: M tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from mtrl.errors import BadInput
from mtrl.registry import nearest
from mtrl.scheduling.scheduler import TaskScheduler, schedulers
from mtrl.types import FinishedEpisode, SuiteSpec

Weight = Annotated[float, Field(ge=0)]


@schedulers.register("fixed")
class Fixed(TaskScheduler):
    """The shares given, for good; a task of weight 0 is not learnt from, and only played in the mode `weight`."""

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskScheduler.Config):
        weights: tuple[Weight, ...] | dict[str, Weight] | None = None  # one per task, or by name (others 0); any scale

    def __init__(self, spec: SuiteSpec, config: Config, seed: int):
        super().__init__(spec, config, seed)
        given = config.weights
        values = _by_name(spec, given) if isinstance(given, Mapping) else given
        if values is None or len(values) != spec.num_tasks:
            raise BadInput(
                f"scheduler.weights: {len(values or ())} given; suite {spec.name!r} has {spec.num_tasks} tasks, "
                "each of which needs one"
            )
        weights = np.array(values, np.float64)
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise BadInput("scheduler.weights: must be finite, not negative and not all 0")
        weights /= weights.max()  # a sum of large weights may overflow
        self._weights = weights / weights.sum()

    def on_episodes(self, episodes: Sequence[FinishedEpisode]) -> None:
        pass

    def weights(self) -> np.ndarray:
        return self._weights


def _by_name(spec: SuiteSpec, weights: Mapping[str, float]) -> list[float]:
    for name in weights:
        if name not in spec.task_names:
            raise BadInput(
                f"scheduler.weights: suite {spec.name!r} has no task {name!r}{nearest(name, spec.task_names)}"
            )
    return [weights.get(name, 0.0) for name in spec.task_names]
