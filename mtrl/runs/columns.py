"""The metrics of a run as columns, for notebooks and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.runs.logs import MetricsLog
from mtrl.runs.run_directory import METRICS, RunDirectory


def load_metrics(run_dir: str | Path) -> dict[str, np.ndarray]:
    """The rows of metrics.jsonl as columns of equal length by name, one row per number of env steps.

    `env_steps` is int64 and ascending. Numbers are float64, NaN where a row lacks the column; columns of anything else
    (matrices, `eval/kind`) hold objects, None where a row lacks them. Where a final evaluation is at the step of a
    periodic one, the final one stands. `pandas.DataFrame(load_metrics(run_dir))` takes it as it is. Raises BadInput.
    """
    run = RunDirectory.open(run_dir)
    return columns(MetricsLog(run.path / METRICS).rows())


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """See `load_metrics`."""
    merged: dict[int, dict[str, Any]] = {}
    for row in rows:
        merged.setdefault(row["env_steps"], {}).update(row)
    ordered = [merged[env_steps] for env_steps in sorted(merged)]
    names = dict.fromkeys(name for row in ordered for name in row)
    return {"env_steps": np.array(sorted(merged), np.int64)} | {
        name: _column([row.get(name) for row in ordered]) for name in names if name != "env_steps"
    }


def _column(values: Sequence[Any]) -> np.ndarray:
    if all(value is None or isinstance(value, float | int) for value in values):
        return np.array([np.nan if value is None else value for value in values], np.float64)
    column = np.empty(len(values), object)
    for index, value in enumerate(values):  # all at once would make an array of what is inside them
        column[index] = value
    return column
