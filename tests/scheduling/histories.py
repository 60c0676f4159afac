"""Episodes written by hand. Shapes: M tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mtrl.testing.scheduler import suite_with_targets
from mtrl.types import FinishedEpisode, SuiteSpec


def episodes(*scores: tuple[int, float]) -> list[FinishedEpisode]:
    """Episodes that ended in one step, as (task, return); one of 10 or more is a success."""
    return [
        FinishedEpisode(slot=slot, task=task, variation=0, return_=score, length=5, success=score >= 10)
        for slot, (task, score) in enumerate(scores)
    ]


def suite_of(targets: Sequence[float | None]) -> SuiteSpec:
    """A suite with these target returns."""
    spec = suite_with_targets(len(targets))
    tasks = [dataclasses.replace(task, target_return=target) for task, target in zip(spec.tasks, targets, strict=True)]
    return dataclasses.replace(spec, tasks=tuple(tasks))
