"""Logs of a run: `metrics.jsonl`, a row per log interval and evaluation, and `eval.csv`, a row per task of every
evaluation.

Rows are appended whole, so a kill tears at most the last one, and a resume drops what is newer than its checkpoint:
an interrupted run leaves the rows of an uninterrupted one.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

from mtrl.checkpoints.files import open_regular, replace_file, storage_faults, write_all
from mtrl.checkpoints.json_text import parse_json
from mtrl.errors import BadInput

EvaluationKind = Literal["periodic", "final"]
"""During training, or of the last checkpoint by the full protocol."""

EVALUATION_KIND = "eval/kind"
"""What only rows of metrics of an evaluation have."""


class EvaluationRow(NamedTuple):
    """One task of one evaluation."""

    env_steps: int  # of training, when it was evaluated
    task: str
    episodes: int
    success_rate: float
    mean_return: float
    kind: EvaluationKind


class RowFile:
    """A text file that grows by whole lines."""

    def __init__(self, path: Path, header: str = ""):
        """header: the first line, with its line end."""
        self.path, self._header = path, header
        self._descriptor = -1

    def append(self, lines: str) -> None:
        """Adds complete lines in one write, visible to readers at once. Raises StorageFailure."""
        with storage_faults(self.path, len(lines)):
            if self._descriptor < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
                self._descriptor = os.open(self.path, flags, 0o666)
            new = os.fstat(self._descriptor).st_size == 0
            write_all(self._descriptor, ((self._header if new else "") + lines).encode())

    def lines(self) -> list[str]:
        """The complete lines after the header, with their line ends; a torn last one is left out. Raises OSError."""
        try:
            descriptor = open_regular(self.path)
        except FileNotFoundError:
            return []
        with open(descriptor, encoding="utf-8", errors="replace", newline="\n") as file:
            lines = file.readlines()
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
        return lines[1:] if self._header else lines

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Rewrites the file in one step with the lines that are wanted. Raises StorageFailure."""
        self.close()
        with storage_faults(self.path):
            if not self.path.exists():
                return
            lines = self.lines()
        replace_file(self.path, "".join([self._header, *filter(wanted, lines)]).encode())

    def sync(self) -> None:
        """Waits until the lines are on the disk. Raises StorageFailure."""
        if self._descriptor >= 0:
            with storage_faults(self.path):
                os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class MetricsLog:
    """Rows of metrics as JSON objects, each with its `env_steps`."""

    def __init__(self, path: Path):
        self.file = RowFile(path)

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds one row; tensors and arrays become lists, a number that JSON lacks becomes null.

        Raises StorageFailure, ValueError if the row has no integer `env_steps`.
        """
        if type(row.get("env_steps")) is not int:
            raise ValueError(f"a row of metrics needs an integer env_steps, not {row.get('env_steps')!r}")
        self.file.append(json.dumps(_plain(row), allow_nan=False) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All rows in order. Raises OSError."""
        return [row for row in map(_metrics_row, self.file.lines()) if row is not None]

    def truncate_after(self, env_steps: int, evaluations: Collection[tuple[int, str]]) -> None:
        """Drops the rows newer than `env_steps`, those of other than the given evaluations, and lines that are no rows.

        evaluations: env steps and kind of each. Raises StorageFailure.
        """

        def wanted(line: str) -> bool:
            row = _metrics_row(line)
            if row is None or row["env_steps"] > env_steps:
                return False
            return EVALUATION_KIND not in row or (row["env_steps"], row[EVALUATION_KIND]) in evaluations

        self.file.keep(wanted)


class EvaluationLog:
    """Rows of evaluations as comma-separated values."""

    def __init__(self, path: Path):
        self.file = RowFile(path, _csv_line(EvaluationRow._fields))

    def append(self, rows: Iterable[EvaluationRow]) -> None:
        """Adds the tasks of one evaluation together. Raises StorageFailure."""
        self.file.append("".join(map(_csv_line, rows)))

    def rows(self) -> list[EvaluationRow]:
        """All rows in order. Raises OSError."""
        return [row for row in map(_evaluation_row, self.file.lines()) if row is not None]

    def truncate_after(self, env_steps: int, end: int) -> None:
        """Drops the rows newer than `env_steps`, and lines that are no rows.

        A final evaluation stays if the run ends later now, after `end` env steps; at the same end it is made again.
        Raises StorageFailure.
        """

        def wanted(line: str) -> bool:
            row = _evaluation_row(line)
            return row is not None and row.env_steps <= env_steps and (row.kind != "final" or row.env_steps < end)

        self.file.keep(wanted)


def _plain(value: Any) -> Any:
    """JSON for what a row may hold."""
    if hasattr(value, "tolist"):  # tensors, arrays and NumPy scalars
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _metrics_row(line: str) -> dict[str, Any] | None:
    try:
        row = parse_json(line.encode())
    except BadInput:
        return None
    return row if isinstance(row, dict) and type(row.get("env_steps")) is int else None


def _csv_line(values: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _evaluation_row(line: str) -> EvaluationRow | None:
    try:
        env_steps, task, episodes, success_rate, mean_return, kind = next(csv.reader([line], strict=True))
        if kind not in get_args(EvaluationKind):
            return None
        numbers = int(env_steps), int(episodes), float(success_rate), float(mean_return)
    except (ValueError, csv.Error, StopIteration):
        return None
    return EvaluationRow(numbers[0], task, *numbers[1:], cast(EvaluationKind, kind))
