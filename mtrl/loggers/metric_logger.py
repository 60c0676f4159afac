"""The protocol of metric loggers: a run calls each of them in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtrl.runs.logs import EvaluationRow
from mtrl.types import Progress


class MetricLogger:
    """A receiver of metrics; by default it ignores everything. None of them may change what is learned."""

    def on_progress(self, progress: Progress, shares: Sequence[float]) -> None:
        """Called with every `Progress`; shares (M,) are the scheduler's."""

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        """Called once per log interval with `env_steps` and metrics: numbers, or mappings from task names."""

    def on_evaluation_progress(self, ended: int, total: int) -> None:
        """Called while an evaluation plays, many times a second, with its episodes that have ended and all of them."""

    def on_evaluation(self, rows: Sequence[EvaluationRow], scores: Mapping[str, float | Mapping[str, float]]) -> None:
        """Called with every evaluation: a row per task, and further scores, overall or by task."""

    def close(self) -> None:
        """Called at the end of the run."""


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of metrics by `name` or `name/task`, without `env_steps`; matrices per task are left out."""
    flat: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{task}": own for task, own in value.items() if isinstance(own, float | int)}
        elif name != "env_steps" and isinstance(value, float | int):
            flat[name] = value
    return flat
