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
        """Called once per log interval with `env_steps` and metrics by name, see `mtrl.loggers.metric_rows`."""

    def on_evaluation_progress(self, ended: int, total: int) -> None:
        """Called while an evaluation plays, many times a second, with its episodes that have ended and all of them."""

    def on_evaluation(self, rows: Sequence[EvaluationRow], metrics: Mapping[str, Any]) -> None:
        """Called with every evaluation: a row per task in task order, and the same as a row of metrics."""

    def close(self) -> None:
        """Called at the end of the run."""
