"""What a report reads of run directories. Shapes: M tasks, T rows of time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtrl.checkpoints.files import printable
from mtrl.config.schema import AUXILIARY
from mtrl.config.yaml_io import load_mapping
from mtrl.env.target_quality import solved_fractions
from mtrl.errors import BadInput
from mtrl.runs.columns import columns
from mtrl.runs.logs import EvaluationRow
from mtrl.runs.run_directory import CONFIG, META, RunDirectory

SUCCESS, HUMAN, TARGET, RETURN = "success rate", "human-normalised score", "reached share of the target", "return"


class Protocol(NamedTuple):
    """What scores have in common that may stand in one table."""

    suite: str
    name: str
    tasks: tuple[str, ...]
    settings: str  # JSON: reward version, horizon, versions of simulators, ...; nothing that follows from the seed
    score: str  # what a task's number is, one of the four above


@dataclass(frozen=True)
class Run:
    """A run with at least one whole evaluation."""

    path: Path
    label: str  # that the user gave it, or nothing
    protocol: Protocol
    seed: int
    config: Mapping[str, Any]  # `suite.name`, `agent.batch_size`, ..., `total_env_steps`
    meta: Mapping[str, Any]
    columns: Mapping[str, np.ndarray]  # of `mtrl.load_metrics`
    evaluation: Sequence[EvaluationRow]  # the newest one, in task order; of two the final one
    scores: np.ndarray  # (M,) of it
    curve: tuple[np.ndarray, np.ndarray]  # env steps (T,) and scores (T, M) of the periodic evaluations

    @property
    def env_steps(self) -> int:
        return self.evaluation[0].env_steps

    @property
    def episodes(self) -> int:
        """Per task, of the evaluation."""
        return self.evaluation[0].episodes

    @property
    def is_final(self) -> bool:
        return self.evaluation[0].kind == "final"

    @property
    def hours(self) -> float:
        """Wall-clock hours of all processes that trained it, evaluations during training included."""
        seconds = self.columns.get("time/wall_seconds", np.zeros(0))
        seconds = seconds[np.isfinite(seconds)]
        # A resumed run counts from zero again.
        return float(np.diff(seconds, prepend=0).clip(min=0).sum() + _after_restarts(seconds)) / 3600

    @property
    def env_steps_per_second(self) -> float:
        rates = self.columns.get("time/env_steps_per_second", np.zeros(0))
        return float(np.nanmedian(rates)) if np.isfinite(rates).any() else np.nan

    def of_tasks(self, name: str) -> np.ndarray | None:
        """The columns `NAME/TASK` of numbers (T, M), rows where all are known; None if there are none."""
        own = [self.columns.get(f"{name}/{task}") for task in self.protocol.tasks]
        if any(column is None or column.dtype == object for column in own):
            return None
        return np.stack(own, axis=1)  # type: ignore[arg-type]


def _after_restarts(seconds: np.ndarray) -> float:
    """What the first rows after restarts count, whose differences are negative."""
    return float(seconds[1:][np.diff(seconds) < 0].sum())


def read_runs(paths: Sequence[str]) -> tuple[list[Run], list[str]]:
    """The runs in `[LABEL=]PATH`, run directories or folders with some in them, and lines on those left out.

    A run that has not been evaluated yet is left out. Raises BadInput if none is left, or for what is no run.
    """
    runs, left_out = [], []
    labels: dict[Path, str] = {}
    folders: dict[Path, Path] = {}
    for text in paths:
        label, path = _labelled(text)
        found = list(_run_directories(path))
        if not found:
            raise BadInput(f"{printable(str(path), 160)}: no run directory" + (" in it" if path.is_dir() else ""))
        for folder in found:
            resolved = folder.resolve()
            folders.setdefault(resolved, folder)
            labels[resolved] = labels.get(resolved) or label  # also where it was found without one before
    named = {_labelled(text)[1].resolve() for text in paths}
    for resolved, folder in folders.items():
        try:
            run = read_run(folder, labels[resolved])
        except BadInput as error:
            if resolved in named:
                raise
            left_out.append(str(error))  # such as a run that was killed at its start
            continue
        if run is None:
            left_out.append(f"{folder}: not evaluated yet")
        else:
            runs.append(run)
    if not runs:
        raise BadInput(f"{printable(left_out[0], 200)}; a report needs a run with an evaluation")
    return runs, left_out


def read_run(path: Path, label: str = "") -> Run | None:
    """A run directory; None if it has no whole evaluation. Raises BadInput."""
    directory = RunDirectory.open(path)
    config = dict(_flat(_listed_by_name(load_mapping(directory.config(), str(path / CONFIG)))))
    meta = directory.meta()
    known = {name: type(meta.get(name)) for name in ("suite", "protocol", "tasks", "settings", "score")}
    if known != {"suite": str, "protocol": str, "tasks": list, "settings": dict, "score": str}:
        raise BadInput(f"{printable(str(path / META), 160)} does not say by which protocol the run is judged")
    tasks = tuple(map(str, meta["tasks"]))
    try:
        evaluations, rows = directory.evaluations.rows(), directory.metrics.rows()
    except OSError as error:
        raise BadInput(f"{printable(str(path), 160)}: {error.strerror}") from error
    whole = _whole_evaluations(evaluations, tasks)
    if not whole:
        return None
    # The newest: of a run that goes on after its final evaluation, a later one during training.
    evaluation = max(whole, key=lambda own: (own[0].env_steps, own[0].kind == "final"))
    score = _score(meta)
    periodic = [own for own in whole if own[0].kind == "periodic"]
    curve = np.array([_task_scores(own, score, meta) for own in periodic]).reshape(-1, len(tasks))
    return Run(
        path=path,
        label=label,
        protocol=Protocol(meta["suite"], meta["protocol"], tasks, settings_text(meta, "seed_settings"), score),
        seed=int(config.get("seed", 0)),
        config=config,
        meta=meta,
        columns=columns(rows),
        evaluation=evaluation,
        scores=_task_scores(evaluation, score, meta),
        curve=(np.array([own[0].env_steps for own in periodic], np.int64), curve),
    )


def settings_text(meta: Mapping[str, Any], *without: str) -> str:
    """The protocol's settings as JSON, but for those that the entries `without` of meta.json name."""
    left_out = {str(name) for entry in without for name in meta.get(entry) or ()}
    return json.dumps({name: value for name, value in meta["settings"].items() if name not in left_out}, sort_keys=True)


def _labelled(text: str) -> tuple[str, Path]:
    label, equals, path = text.partition("=")
    return (label, Path(path)) if equals and not Path(text).exists() else ("", Path(text))


def _run_directories(path: Path) -> Iterator[Path]:
    """The run directories at or below a path, in the order of their names."""
    for folder, inside, files in os.walk(path):
        if {CONFIG, META} <= {*files}:
            inside.clear()
            yield Path(folder)
        inside.sort()


def _listed_by_name(document: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose list of auxiliary tasks is a mapping with one name for all; without any it is left out."""
    result = {key: value for key, value in document.items() if key != AUXILIARY.name}
    chosen = [own for own in document.get(AUXILIARY.name) or () if isinstance(own, Mapping) and "name" in own]
    if chosen:
        names = " + ".join(str(own["name"]) for own in chosen)
        result[AUXILIARY.name] = {"name": names} | {
            str(own["name"]): {key: value for key, value in own.items() if key != "name"} for own in chosen
        }
    return result


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _whole_evaluations(rows: Sequence[EvaluationRow], tasks: Sequence[str]) -> list[list[EvaluationRow]]:
    """Every evaluation that has all tasks, in the order of the file, its rows in task order."""
    found: dict[tuple[int, str], dict[str, EvaluationRow]] = {}
    for row in rows:
        found.setdefault((row.env_steps, row.kind), {})[row.task] = row
    return [[own[task] for task in tasks] for own in found.values() if own.keys() == {*tasks}]


def _references(meta: Mapping[str, Any], kind: str) -> np.ndarray | None:
    """The random, human or target return of every task (M,), None where one is missing."""
    values = [meta.get("reference_returns", {}).get(task, {}).get(kind) for task in meta["tasks"]]
    return None if None in values else np.array(values, np.float64)


def _score(meta: Mapping[str, Any]) -> str:
    """The number by which a task is judged."""
    human, random, target = (_references(meta, kind) for kind in ("human", "random", "target"))
    if meta["score"] == "success":
        return SUCCESS
    if human is not None and random is not None:
        return HUMAN
    return TARGET if target is not None and (target > 0).all() else RETURN


def _task_scores(rows: Sequence[EvaluationRow], score: str, meta: Mapping[str, Any]) -> np.ndarray:
    """(M,)."""
    return task_scores([row.success_rate for row in rows], [row.mean_return for row in rows], score, meta)


def task_scores(rates: Sequence[float], returns: Sequence[float], score: str, meta: Mapping[str, Any]) -> np.ndarray:
    """Scores (..., M) of success rates and mean returns (..., M)."""
    if score == SUCCESS:
        return np.array(rates, np.float64)
    values = np.array(returns, np.float64)
    human, random, target = (_references(meta, kind) for kind in ("human", "random", "target"))
    if score == HUMAN and human is not None and random is not None:
        return (values - random) / (human - random)
    return solved_fractions(values, target) if score == TARGET and target is not None else values
