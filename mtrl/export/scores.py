"""The scores of an exported checkpoint, as its run has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from mtrl.checkpoints.files import read_small_file
from mtrl.checkpoints.json_text import parse_json
from mtrl.errors import BadInput
from mtrl.runs.run_directory import EVALUATION, RunDirectory
from mtrl.training.load import TrainedAgent

_MAX_BYTES = 64 * 2**20


class TaskScore(NamedTuple):
    """One task of an evaluation."""

    task: str
    episodes: int
    success_rate: float
    mean_return: float


def scores_of(run: RunDirectory, trained: TrainedAgent, weights: str) -> tuple[list[TaskScore], Mapping[str, Any]]:
    """Scores per task of exactly this checkpoint, and the result of `mtrl eval` if they are from there.

    From eval.json, or the run's final evaluation; empty where neither is of this checkpoint and these weights.
    """
    result = _evaluation(run)
    if result.get("checkpoint") == trained.checkpoint and result.get("tasks") == list(trained.spec.task_names):
        episodes: Mapping[str, Any] = result["episodes"]
        return [
            TaskScore(task, len(own["return"]), _mean(own["success"]), _mean(own["return"]))
            for task, own in episodes.items()
        ], result
    if weights != "averaged" or trained.checkpoint.startswith("best"):
        return [], {}
    rows = [row for row in run.evaluations.rows() if row.kind == "final" and row.env_steps == trained.env_steps]
    return [TaskScore(row.task, row.episodes, row.success_rate, row.mean_return) for row in rows], {}


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _evaluation(run: RunDirectory) -> Mapping[str, Any]:
    """The content of eval.json; empty where there is none, or it is not what `mtrl eval` writes."""
    try:
        result = parse_json(read_small_file(run.path / EVALUATION, _MAX_BYTES))
    except (OSError, BadInput):
        return {}
    return result if isinstance(result, dict) and isinstance(result.get("episodes"), dict) else {}
