"""Returns in units of what they are worth: human-normalised and target-normalised scores. Shapes: M tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mtrl.env.target_quality import solved_fractions
from mtrl.types import SuiteSpec, TaskSpec

HUMAN = "human-normalised"
TARGET = "target-normalised"


def normalized_scores(tasks: Sequence[TaskSpec], mean_returns: np.ndarray) -> Mapping[str, np.ndarray]:
    """Scores (M,) by name for mean returns (M,), of suites whose tasks all have a human return.

    Human-normalised: 0 is random play and 1 human play (Mnih et al., 2015). Target-normalised: the share of the target
    return that is reached, in [0, 1] (Sharma et al., 2017, arXiv:1702.06053), where all targets are positive.
    """
    human, random, target = (_of(tasks, field) for field in ("human_return", "random_return", "target_return"))
    scores = {}
    if human is not None and random is not None:
        scores[HUMAN] = (mean_returns - random) / (human - random)
        if target is not None and (target > 0).all():
            scores[TARGET] = solved_fractions(mean_returns, target)
    return scores


def overall_score(spec: SuiteSpec, mean_returns: np.ndarray, success_rates: np.ndarray) -> float:
    """The one number by which evaluations of a run are compared, from what was measured of every task (M,).

    The mean share of the targets that is reached, which is the success rate where success is the score; without
    targets for all tasks, the median human-normalised score; without that either, the mean score.
    """
    if spec.target_scores is not None:
        return float(solved_fractions(spec.scores(mean_returns, success_rates), spec.target_scores).mean())
    normalized = normalized_scores(spec.tasks, mean_returns)
    return float(
        np.median(normalized[HUMAN]) if HUMAN in normalized else spec.scores(mean_returns, success_rates).mean()
    )


def reference_returns(tasks: Sequence[TaskSpec]) -> Mapping[str, Mapping[str, float]]:
    """What returns are compared with, by task, as JSON; tasks without any are left out."""
    known = {
        task.name: {"random": task.random_return, "human": task.human_return, "target": task.target_return}
        for task in tasks
    }
    given = {name: {kind: value for kind, value in own.items() if value is not None} for name, own in known.items()}
    return {name: own for name, own in given.items() if own}


def _of(tasks: Sequence[TaskSpec], field: str) -> np.ndarray | None:
    values = [getattr(task, field) for task in tasks]
    return None if None in values else np.array(values, np.float64)
