"""The log files of a run directory: metrics.jsonl and eval.csv. What a resumed run did last is read back from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtrl.loggers.metric_logger import MetricLogger
from mtrl.runs.logs import EvaluationRow
from mtrl.runs.run_directory import RunDirectory


class RunDirectoryLogger(MetricLogger):
    """Appends rows to metrics.jsonl and eval.csv. Raises StorageFailure."""

    def __init__(self, run: RunDirectory):
        self._run = run

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        self._run.append_metrics(row)

    def on_evaluation(self, rows: Sequence[EvaluationRow], metrics: Mapping[str, Any]) -> None:
        # eval.csv last: what it lacks counts as not evaluated (`RunDirectory.truncate_after`).
        self._run.append_metrics(metrics)
        self._run.append_evaluation(rows)
