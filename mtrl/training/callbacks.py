"""Callbacks of a run: metrics, evaluations and checkpoints. None of them changes what is learned.

Each is called with every `Progress` and acts when its interval is crossed. Whether it is due follows from what it wrote
last, so that a run interrupted at any point leaves the rows of an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mtrl.checkpoints.store import CheckpointStore
from mtrl.env.scores import overall_score
from mtrl.errors import Diverged
from mtrl.evaluation.evaluator import EvaluationResult, EvaluationStopped, Evaluator
from mtrl.loggers.metric_logger import MetricLogger
from mtrl.loggers.metric_rows import episode_metrics, evaluation_metrics, per_task, update_metrics
from mtrl.runs.logs import EvaluationKind, EvaluationRow
from mtrl.runs.run_directory import RunDirectory
from mtrl.training.interruption import Interruption
from mtrl.training.restore import suite_facts
from mtrl.training.train_state import TrainState
from mtrl.types import Metrics, Progress, State


def due(env_steps: int, last: int, interval: int) -> bool:
    """Whether a multiple of `interval` lies in (last, env_steps]."""
    return interval > 0 and env_steps // interval > last // interval


class MetricsCallback:
    """Passes progress and, at intervals and at the end of training, rows of metrics to the loggers.

    A run that is extended afterwards keeps the row of its first end.
    """

    def __init__(
        self,
        run: RunDirectory,
        state: TrainState,
        loggers: Sequence[MetricLogger],
        interval: int,
        total_env_steps: int,
        evaluation_seconds: Callable[[], float] = lambda: 0.0,
        conflict_interval: int = 0,
    ):
        """evaluation_seconds: what evaluations have taken so far, which counts in no rate.

        conflict_interval: env steps between measurements of gradient conflict, which have rows of their own; 0: none.
        """
        self._state, self._loggers = state, loggers
        self._evaluation_seconds = evaluation_seconds
        self._interval, self._total_env_steps = interval, total_env_steps
        rows = run.metrics.rows()
        self._last = max((row["env_steps"] for row in rows if "train/num_updates" in row), default=0)
        self._conflict_interval = conflict_interval
        measured = [row["env_steps"] for row in rows if any(name.endswith("/conflict_rate") for name in row)]
        self._last_conflict = max(measured, default=0)
        for group in state.agent.groups().values():
            group.keeps_last_batch = conflict_interval > 0
        self._started = time.monotonic()
        self._first_env_steps = state.env_steps

    def __call__(self, progress: Progress) -> None:
        shares = self._state.scheduler.weights().tolist()
        for logger in self._loggers:
            logger.on_progress(progress, shares)
        ends = progress.env_steps >= self._total_env_steps
        if ends or due(progress.env_steps, self._last, self._interval):
            self._last = progress.env_steps
            self._log(self._row(progress))
        if progress.metrics and due(progress.env_steps, self._last_conflict, self._conflict_interval):
            self._last_conflict = progress.env_steps
            self._log({"env_steps": progress.env_steps, **self._conflict()})

    def _log(self, row: Mapping[str, Any]) -> None:
        for logger in self._loggers:
            logger.on_metrics(row)

    def _conflict(self) -> dict[str, Any]:
        """Of every parameter group, in its last step."""
        metrics: Metrics = {}
        for group in self._state.agent.groups().values():
            metrics |= group.conflict()
        listed = {name: value.tolist() for name, value in metrics.items()}
        return update_metrics(listed, self._state.envs.spec.task_names)

    def _row(self, progress: Progress) -> dict[str, Any]:
        state, spec = self._state, self._state.envs.spec
        seconds = time.monotonic() - self._started
        training = seconds - self._evaluation_seconds()
        means = state.metric_means.means()
        state.metric_means.clear()
        return {
            "env_steps": progress.env_steps,
            "train/vector_steps": progress.vector_steps,
            "train/num_updates": state.num_updates,
            **episode_metrics(spec, state.recent.mean_returns, state.recent.success_rates),
            **per_task("train/share", spec.task_names, state.scheduler.weights().tolist()),
            **update_metrics(means, spec.task_names),
            # Of this process; the only values that differ between a run and its repetition.
            "time/wall_seconds": round(seconds, 3),
            "time/env_steps_per_second": round((progress.env_steps - self._first_env_steps) / max(training, 1e-9), 1),
        }


class EvaluationCallback:
    """Periodic evaluations, the final one, and the best checkpoint."""

    def __init__(
        self,
        run: RunDirectory,
        state: TrainState,
        store: CheckpointStore,
        evaluator: Evaluator,
        interruption: Interruption,
        loggers: Sequence[MetricLogger],
        interval: int,
        episodes_per_task: int,
    ):
        self._state, self._store, self._evaluator = state, store, evaluator
        self._interruption, self._loggers = interruption, loggers
        self._interval, self._episodes_per_task = interval, episodes_per_task
        self.seconds = 0.0  # that evaluations have taken
        self._result: EvaluationResult | None = None  # of the last periodic evaluation
        evaluations = _complete_evaluations(run.evaluations.rows(), state.envs.spec.task_names)
        self._last = max(evaluations, default=0)
        self._best = max(map(self._score, evaluations.values()), default=-math.inf)

    def __call__(self, progress: Progress) -> None:
        self.evaluate_if_due(progress.env_steps)

    def evaluate_if_due(self, env_steps: int) -> None:
        """Evaluates unless the last evaluation is recent enough, or the run was told to stop meanwhile."""
        if not due(env_steps, self._last, self._interval):
            return
        try:
            result = self._play(self._episodes_per_task)
        except EvaluationStopped:
            return  # the checkpoint of this very step is written next; a resume evaluates first
        rows = _rows(result, env_steps, "periodic")
        score = self._score(rows)
        # Before the rows: a run killed in between evaluates again and finds the checkpoint it saved.
        if score > self._best:
            self._best = score
            folder = self._store.save(
                env_steps,
                {"agent": self._state.agent.state()},
                kind="best",
                info={"score": score, "episodes_per_task": self._episodes_per_task},
            )
            for logger in self._loggers:
                logger.on_checkpoint(env_steps, folder)
        self._log(rows)
        self._last, self._result = env_steps, result

    def evaluate_finally(self, env_steps: int, episodes_per_task: int) -> EvaluationResult:
        """The protocol's evaluation at the end. Raises EvaluationStopped."""
        played = self._result if self._last == env_steps else None
        # A periodic evaluation of this very step with as many episodes has the same numbers.
        same = played is not None and played.episodes_per_task == episodes_per_task
        result = played if played is not None and same else self._play(episodes_per_task)
        self._log(_rows(result, env_steps, "final"))
        return result

    def _play(self, episodes_per_task: int) -> EvaluationResult:
        total, started = episodes_per_task * self._state.envs.spec.num_tasks, time.monotonic()

        def report(ended: int) -> None:
            for logger in self._loggers:
                logger.on_evaluation_progress(ended, total)

        report(0)
        try:
            return self._evaluator.evaluate(
                self._state.agent, episodes_per_task, lambda: bool(self._interruption), report
            )
        finally:
            self.seconds += time.monotonic() - started

    def _score(self, rows: Sequence[EvaluationRow]) -> float:
        """Of an evaluation as it stands in the file, so that a restart finds the same number."""
        returns, rates = (np.array([getattr(row, name) for row in rows]) for name in ("mean_return", "success_rate"))
        return overall_score(self._state.envs.spec, returns, rates)

    def _log(self, rows: Sequence[EvaluationRow]) -> None:
        metrics = evaluation_metrics(self._state.envs.spec, rows)
        for logger in self._loggers:
            logger.on_evaluation(rows, metrics)


def _rows(result: EvaluationResult, env_steps: int, kind: EvaluationKind) -> list[EvaluationRow]:
    return [
        EvaluationRow(env_steps, name, result.episodes_per_task, float(rate), float(return_), kind)
        for name, rate, return_ in zip(result.task_names, result.success_rates, result.mean_returns, strict=True)
    ]


def _complete_evaluations(rows: Sequence[EvaluationRow], task_names: Sequence[str]) -> dict[int, list[EvaluationRow]]:
    """The rows of every periodic evaluation in task order, by env steps.

    One that lacks a task, as a full disk or an editor leaves it, counts as not made.
    """
    found: dict[int, dict[str, EvaluationRow]] = {}
    for row in rows:
        if row.kind == "periodic" and math.isfinite(row.success_rate) and math.isfinite(row.mean_return):
            found.setdefault(row.env_steps, {})[row.task] = row
    return {
        env_steps: [own[name] for name in task_names] for env_steps, own in found.items() if own.keys() == {*task_names}
    }


class CheckpointCallback:
    """Checkpoints of the whole train state."""

    def __init__(
        self,
        run: RunDirectory,
        state: TrainState,
        store: CheckpointStore,
        loggers: Sequence[MetricLogger],
        interval: int,
    ):
        self._run, self._state, self._store, self._interval = run, state, store, interval
        self._loggers = loggers
        self._last = state.env_steps

    def __call__(self, progress: Progress) -> None:
        if due(progress.env_steps, self._last, self._interval):
            self.save()

    def save(self) -> None:
        """Writes a checkpoint of now. Raises StorageFailure, or Diverged rather than save what is not finite."""
        self._last = self._state.env_steps
        content = self._state.state()
        _check_finite(content["agent"], "agent")
        self._run.sync()
        info = {
            **suite_facts(self._state.envs.spec),
            "inputs": dict(self._state.agent.inputs()),
            "in_step": self._state.in_step,
        }
        folder = self._store.save(self._state.env_steps, content, self._state.buffer.chunks(), info=info)
        for logger in self._loggers:
            logger.on_checkpoint(self._state.env_steps, folder)


def _check_finite(part: State, path: str) -> None:
    for name, value in part.items():
        if isinstance(value, dict):
            _check_finite(value, f"{path}.{name}")
        elif isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise Diverged(f"{path}.{name} is not finite; the last good checkpoint stays")
