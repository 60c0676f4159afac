"""The folder of a run: who may write it, and where everything in it is.

config.yaml      the resolved configuration; reproduces the run
meta.json        versions, source revision, cores, protocol, status and exit code
metrics.jsonl    one row per log interval
eval.csv         one row per task of every evaluation
tb/              the same for TensorBoard
checkpoints/     see mtrl/checkpoints/store.py
lock             held by the one trainer of the run
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from mtrl.errors import BadInput
from mtrl.runs.lock import RunLock, read_holder
from mtrl.runs.logs import EvaluationLog, EvaluationRow, MetricsLog
from mtrl.checkpoints.files import (
    TEMPORARY,
    delete,
    printable,
    read_small_file,
    reason,
    replace_file,
    storage_failure,
    storage_faults,
)
from mtrl.checkpoints.strict_json import InvalidJson, dump, parse

CONFIG, META, METRICS, EVALUATIONS, LOCK = "config.yaml", "meta.json", "metrics.jsonl", "eval.csv", "lock"
TENSORBOARD, CHECKPOINTS, VIDEOS, DIAGNOSTICS = "tb", "checkpoints", "videos", "diagnostics"
CONTENT = (TENSORBOARD, CHECKPOINTS, VIDEOS, DIAGNOSTICS, METRICS, EVALUATIONS, META, CONFIG)
"""What `--overwrite` removes; anything else in the folder is the user's."""

MAX_TEXT_BYTES = 2**20  # of config.yaml and meta.json

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}

Status = Literal["running", "done", "failed"]


class RunDirectory:
    """A run directory, made by `create`, `resume` or `open`. A context manager that lets go of lock and files."""

    def __init__(self, path: Path, lock: RunLock | None):
        self.path = path
        self.checkpoints = path / CHECKPOINTS
        self.tensorboard = path / TENSORBOARD
        self.videos = path / VIDEOS
        self.diagnostics = path / DIAGNOSTICS
        self.metrics = MetricsLog(path / METRICS)
        self.evaluations = EvaluationLog(path / EVALUATIONS)
        self._lock = lock

    @classmethod
    def create(cls, path: str | Path, *, overwrite: bool = False) -> RunDirectory:
        """A new, empty run directory, locked. overwrite: an existing one is emptied first.

        Raises BadInput if it exists and may not be emptied, is no run directory, has a trainer, or cannot be made.
        """
        folder = _checked_path(path)
        shown = printable(str(folder), 160)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            others = set(os.listdir(folder)) - {LOCK}
            is_run = _is_run_directory(folder)
            if others and not is_run:
                remedy = "--overwrite empties only run directories" if overwrite else "choose another --run-dir"
                raise BadInput(f"{shown} is not empty and not a run directory; {remedy}")
            lock = RunLock(folder / LOCK)
        except OSError as error:
            raise _cannot("create run directory", folder, error) from error
        run = cls(folder, lock)
        try:
            # Only now can no other trainer be at work in it.
            run._sweep()
            content = [name for name in CONTENT if os.path.lexists(folder / name)]
            if content and not overwrite:
                raise BadInput(f"run directory {shown} exists; use --resume {shown} to go on with it or --overwrite")
            with storage_faults(folder):
                for name in content:
                    delete(folder / name)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def resume(cls, path: str | Path) -> RunDirectory:
        """An existing run directory, locked. Raises BadInput if it is none, or has a trainer."""
        run = cls.open(path)
        try:
            run._lock = RunLock(run.path / LOCK)
            run._sweep()
        except OSError as error:
            raise _cannot("write to run directory", run.path, error) from error
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """An existing run directory to read from. Raises BadInput if it is none."""
        folder = _checked_path(path)
        run = cls(folder, None)
        run.config()
        return run

    def config(self) -> str:
        """The text of config.yaml. Raises BadInput."""
        return self._read(CONFIG)

    def write_config(self, text: str) -> None:
        """Raises StorageFailure."""
        self._check_locked()
        replace_file(self.path / CONFIG, text.encode())

    def meta(self) -> dict[str, Any]:
        """The content of meta.json. Raises BadInput."""
        try:
            meta = parse(self._read(META).encode())
        except InvalidJson as error:
            raise BadInput(f"{printable(str(self.path / META), 160)}: {error}") from error
        if not isinstance(meta, dict):
            raise BadInput(f"{printable(str(self.path / META), 160)} is not a JSON object")
        return meta

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Replaces meta.json. Raises StorageFailure, ValueError or TypeError if `meta` is not JSON."""
        self._check_locked()
        replace_file(self.path / META, dump(dict(meta), indent=2) + b"\n")

    def set_status(self, status: Status, exit_code: int | None = None) -> None:
        """Notes in meta.json how the run stands; the rest stays. Raises StorageFailure."""
        try:
            meta = self.meta()
        except BadInput:  # missing or damaged: what can still be said is said
            meta = {}
        self.write_meta(meta | {"status": status, "exit_code": exit_code})

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Adds one row with its integer `env_steps` to metrics.jsonl. Raises StorageFailure."""
        self._check_locked()
        self.metrics.append(row)

    def append_evaluation(self, rows: Iterable[EvaluationRow]) -> None:
        """Adds the tasks of one evaluation to eval.csv. Raises StorageFailure."""
        self._check_locked()
        self.evaluations.append(rows)

    def sync(self) -> None:
        """Waits until all rows are on the disk; before a checkpoint, so that no row it counts on is lost.

        Raises StorageFailure.
        """
        self.metrics.file.sync()
        self.evaluations.file.sync()

    def truncate_after(self, env_steps: int) -> None:
        """Drops the rows newer than the checkpoint that a run resumes from. Raises StorageFailure."""
        self._check_locked()
        self.metrics.truncate_after(env_steps)
        self.evaluations.truncate_after(env_steps)

    def close(self) -> None:
        self.metrics.file.close()
        self.evaluations.file.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _sweep(self) -> None:
        """Removes files that a killed trainer had begun. Raises StorageFailure."""
        with storage_faults(self.path):
            for name in os.listdir(self.path):
                if name.startswith(TEMPORARY):
                    delete(self.path / name)

    def _check_locked(self) -> None:
        if self._lock is None:
            raise ValueError("this run directory is open for reading only, or closed")

    def _read(self, name: str) -> str:
        try:
            return read_small_file(self.path / name, MAX_TEXT_BYTES).decode()
        except FileNotFoundError:
            state = "has no" if self.path.is_dir() else "does not exist: no"
            raise BadInput(f"run directory {printable(str(self.path), 160)} {state} {name}") from None
        except OSError as error:
            raise _cannot(f"read {name} of run directory", self.path, error) from error
        except UnicodeDecodeError as error:
            raise BadInput(f"{printable(str(self.path / name), 160)} is not UTF-8 text: {error.reason}") from error


def _checked_path(path: str | Path) -> Path:
    if str(path) == "" or "\0" in str(path):
        raise BadInput(f"{printable(str(path))} cannot be a run directory")
    return Path(path)


def _is_run_directory(folder: Path) -> bool:
    """Whether a trainer of ours made it; decides what may be deleted."""
    return read_holder(folder / LOCK) is not None or all((folder / name).is_file() for name in (CONFIG, META))


def _cannot(action: str, folder: Path, error: OSError) -> Exception:
    if error.errno in _FULL_DISK:
        return storage_failure(error, folder)
    return BadInput(f"cannot {action} {printable(str(folder), 160)}: {reason(error)}")
