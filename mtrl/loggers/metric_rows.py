"""Rows of metrics as every logger gets them: one flat mapping from names to numbers. Shapes: M tasks.

    env_steps                    the x axis of every curve
    train/success_rate/TASK      of the last training episodes; so return, share
    losses/critic_loss/TASK      of an agent's updates since the last row, what ends with `_loss`; all else in train/
    actor/kl/TASK                a metric that an agent reports in a group of its own
    eval/success_rate/TASK       of an evaluation, whose rows have `eval/kind`; so return, and normalised scores
    eval/mean_success_rate       GROUP/mean_NAME is the mean over the tasks of GROUP/NAME/TASK
    time/env_steps_per_second    of this process, evaluations not counted

A metric with more than one number per task, such as a routing matrix, has a nested list instead of a number, and no
mean. What is not known (yet) is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtrl.env.scores import HUMAN, normalized_scores
from mtrl.env.target_quality import target_quality
from mtrl.runs.logs import EVALUATION_KIND, EvaluationRow
from mtrl.types import SuiteSpec


def per_task(name: str, task_names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """`GROUP/NAME/TASK` of every task, and `GROUP/mean_NAME` of those that are known, where values are numbers."""
    row = {f"{name}/{task}": _known(value) for task, value in zip(task_names, values, strict=True)}
    if not any(isinstance(value, list) for value in values):
        known = [value for value in values if value is not None and not math.isnan(value)]
        group, _, last = name.rpartition("/")
        row[f"{group}/mean_{last}"] = float(np.mean(known)) if known else None
    return row


def update_metrics(means: Mapping[str, Any], task_names: Sequence[str]) -> dict[str, Any]:
    """Metrics of an agent, as `MetricMeans.means` gives them: a list with a value per task, or one number."""
    row: dict[str, Any] = {}
    for name, value in means.items():
        full = name if "/" in name else f"{'losses' if name.endswith('_loss') else 'train'}/{name}"
        row |= per_task(full, task_names, value) if isinstance(value, list) else {full: _known(value)}
    return row


def _known(value: Any) -> Any:
    """None for a number that is NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def episode_metrics(spec: SuiteSpec, mean_returns: np.ndarray, success_rates: np.ndarray) -> dict[str, Any]:
    """Of the last training episodes, from mean returns (M,) and success rates (M,), NaN before the first episode."""
    row = _scores("train", spec, mean_returns, success_rates)
    return {name: _known(value) for name, value in row.items()}


def evaluation_metrics(spec: SuiteSpec, rows: Sequence[EvaluationRow]) -> dict[str, Any]:
    """Of an evaluation, from its rows in task order."""
    mean_returns = np.array([row.mean_return for row in rows])
    success_rates = np.array([row.success_rate for row in rows])
    return {
        "env_steps": rows[0].env_steps,
        EVALUATION_KIND: rows[0].kind,
        "eval/episodes_per_task": rows[0].episodes,
        **_scores("eval", spec, mean_returns, success_rates),
    }


def _scores(group: str, spec: SuiteSpec, mean_returns: np.ndarray, success_rates: np.ndarray) -> dict[str, Any]:
    names = spec.task_names
    row = per_task(f"{group}/success_rate", names, success_rates.tolist())
    row |= per_task(f"{group}/return", names, mean_returns.tolist())
    for kind, scores in normalized_scores(spec.tasks, mean_returns).items():
        name = f"{kind.replace('-', '_')}_score"
        row |= per_task(f"{group}/{name}", names, scores.tolist())
        if kind == HUMAN:  # the median is what most papers report
            row[f"{group}/median_{name}"] = float(np.median(scores))
    # How near the tasks are to their targets, on a suite that has some.
    quality = target_quality(spec.scores(mean_returns, success_rates), spec.target_scores)
    return row | {f"{group}/{name}": value for name, value in quality.items()}


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row without `env_steps`: what curves are drawn of."""
    return {name: value for name, value in row.items() if name != "env_steps" and isinstance(value, float | int)}
