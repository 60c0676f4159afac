"""The scores of an exported checkpoint, as its run has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from mtrl.checkpoints.files import read_small_file
from mtrl.checkpoints.json_text import parse_json
from mtrl.errors import BadInput
from mtrl.runs.run_directory import EVALUATION, RunDirectory
from mtrl.training.load import TrainedAgent
from mtrl.training.restore import suite_facts

_MAX_BYTES = 64 * 2**20


class TaskScore(NamedTuple):
    """One task of an evaluation."""

    task: str
    episodes: int
    success_rate: float
    mean_return: float


def scores_of(run: RunDirectory, trained: TrainedAgent, weights: str) -> tuple[list[TaskScore], Mapping[str, Any]]:
    """Scores per task of exactly this checkpoint, and the result of `mtrl eval` if they are from there.

    From eval.json if it is of the run's seed and protocol, or the run's final evaluation if that has more episodes;
    empty where neither is of this checkpoint and these weights.
    """
    final = _final_scores(run, trained, weights)
    result = _evaluation(run)
    # What was played is part of the checkpoint's label: weights of the last update, a part of the policy.
    facts = {"checkpoint": trained.checkpoint, "seed": trained.config.settings.seed, **suite_facts(trained.spec)}
    if {name: result.get(name) for name in facts} != facts:
        return final, {}
    episodes: Mapping[str, Any] = result["episodes"]
    try:
        scores = [_task_score(task, episodes[task]) for task in trained.spec.task_names]
    except (LookupError, TypeError, ValueError) as error:
        raise BadInput(f"{run.path / EVALUATION} is not what mtrl eval writes: {error!r}") from error
    return (final, {}) if final and final[0].episodes > scores[0].episodes else (scores, result)


def _final_scores(run: RunDirectory, trained: TrainedAgent, weights: str) -> list[TaskScore]:
    """Of the run's own final evaluation; empty where it is of another checkpoint or other weights."""
    if weights != "averaged" or trained.checkpoint.startswith("best"):
        return []
    rows = [row for row in run.evaluations.rows() if row.kind == "final" and row.env_steps == trained.env_steps]
    return [TaskScore(row.task, row.episodes, row.success_rate, row.mean_return) for row in rows]


def _task_score(task: str, episodes: Mapping[str, Sequence[float]]) -> TaskScore:
    successes, returns = episodes["success"], episodes["return"]
    return TaskScore(task, len(returns), fmean(successes), fmean(returns))


def _evaluation(run: RunDirectory) -> Mapping[str, Any]:
    """The content of eval.json; empty where there is none, or it is not what `mtrl eval` writes."""
    try:
        result = parse_json(read_small_file(run.path / EVALUATION, _MAX_BYTES))
    except (OSError, BadInput):
        return {}
    return result if isinstance(result, dict) and isinstance(result.get("episodes"), dict) else {}
