"""Run directory: its files and its one trainer.

config.yaml      the resolved configuration; reproduces the run
meta.json        versions, source revision, cores, protocol, status and exit code; process and host of the trainer
metrics.jsonl    one row per log interval and evaluation, see mtrl/loggers/metric_rows.py
eval.csv         one row per task of every evaluation of the run itself
eval.json        the result of the last `mtrl eval`
tb/              the same for TensorBoard
metrics.csv      the same as a table (`--logger csv`)
loggers/         what other loggers keep
export/          the policy as `mtrl export` writes it
relations/       what `mtrl relations` has measured
checkpoints/     see mtrl/checkpoints/store.py
lock             held by the one trainer of the run
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from filelock import Timeout

from mtrl.checkpoints.files import (
    TEMPORARY,
    delete,
    overwrite_file,
    printable,
    read_small_file,
    reason,
    replace_file,
    storage_failure,
    storage_faults,
)
from mtrl.checkpoints.json_text import dump_json, parse_json
from mtrl.errors import BadInput, StorageFailure
from mtrl.runs.lock import RunLock
from mtrl.runs.logs import EvaluationLog, EvaluationRow, MetricsLog

CONFIG, META, METRICS, EVALUATIONS, LOCK = "config.yaml", "meta.json", "metrics.jsonl", "eval.csv", "lock"
EVALUATION = "eval.json"
METRICS_TABLE = "metrics.csv"
EXPORTED_WEIGHTS, EXPORT_FACTS = "policy.safetensors", "policy.json"
"""Of the folder of an exported policy, which has a CONFIG too: it can be opened like a run."""
TENSORBOARD, LOGGERS, CHECKPOINTS, VIDEOS, DIAGNOSTICS = "tb", "loggers", "checkpoints", "videos", "diagnostics"
EXPORT, RELATIONS = "export", "relations"
FOLDERS = (TENSORBOARD, LOGGERS, CHECKPOINTS, VIDEOS, DIAGNOSTICS)
CONTENT = (*FOLDERS, EXPORT, RELATIONS, METRICS, METRICS_TABLE, EVALUATIONS, EVALUATION, CONFIG)
"""Removed by `--overwrite`; anything else in the folder is the user's."""

OLDER_VERSIONS = ("0.1", "0.2")
"""Releases whose runs this version does not read."""

MAX_TEXT_BYTES = 2**20  # of config.yaml and meta.json

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}

Status = Literal["running", "done", "interrupted", "failed"]


class RunDirectory:
    """A run directory, made by `create`, `resume` or `open`. A context manager that releases lock and files."""

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
        """A new, empty run directory, locked. A run in which nothing was trained yet is replaced.

        overwrite: a trained one is emptied first.

        Raises BadInput if it exists and may not be emptied, is no run directory, has a trainer, or cannot be made.
        """
        folder = _checked_path(path)
        shown = printable(str(folder), 160)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not _may_be_emptied(folder):
                remedy = "--overwrite empties only run directories" if overwrite else "choose another --run-dir"
                raise BadInput(f"{shown} is not empty and not a run directory; {remedy}")
        except OSError as error:
            raise _cannot("create run directory", folder, error) from error
        run = cls(folder, None)
        try:
            run._acquire("create run directory")
            # Only now can no other trainer be at work in it.
            if not overwrite:
                _refuse_linked_folders(folder)
                if run._is_trained():
                    raise BadInput(f"run directory {shown} exists; use --resume {shown} to continue it or --overwrite")
            run.write_meta({})
            with storage_faults(folder):
                for name in CONTENT:
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
            run._acquire("write to run directory")
            run.write_meta(run._known_meta())
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """An existing run directory to read from. Raises BadInput if it is none, or of an older version."""
        folder = _checked_path(path)
        run = cls(folder, None)
        run.config()
        _refuse_linked_folders(folder)
        run._refuse_older_version()
        return run

    def config(self) -> str:
        """The text of config.yaml. Raises BadInput."""
        return self._read(CONFIG)

    def write_config(self, text: str) -> None:
        """Raises StorageFailure."""
        self.check_in_place()
        replace_file(self.path / CONFIG, text.encode())

    def meta(self) -> dict[str, Any]:
        """The content of meta.json. Raises BadInput."""
        text = self._read(META)
        try:
            meta = parse_json(text.encode())
        except BadInput as error:
            raise BadInput(f"{printable(str(self.path / META), 160)}: {error}") from error
        if not isinstance(meta, dict):
            raise BadInput(f"{printable(str(self.path / META), 160)} is not a JSON object")
        return meta

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Replaces meta.json, the trainer's process added. Raises StorageFailure, ValueError or TypeError."""
        self.check_in_place()
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        replace_file(self.path / META, dump_json({**meta, **holder}, indent=2) + b"\n")

    def set_status(self, status: Status, exit_code: int | None = None) -> None:
        """Records the status in meta.json; the rest stays. Raises StorageFailure."""
        self.check_in_place()
        meta = self._known_meta() | {"status": status, "exit_code": exit_code}
        try:
            self.write_meta(meta)
        except StorageFailure:
            # A full disk takes no new file, but what is no longer than before can be written over the old one.
            overwrite_file(self.path / META, dump_json(meta, indent=2))
            raise

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Adds one row with its integer `env_steps` to metrics.jsonl. Raises StorageFailure."""
        self.check_in_place()
        self.metrics.append(row)

    def append_evaluation(self, rows: Iterable[EvaluationRow]) -> None:
        """Adds the tasks of one evaluation to eval.csv. Raises StorageFailure."""
        self.check_in_place()
        self.evaluations.append(rows)

    def sync(self) -> None:
        """Waits until all rows are on the disk; before a checkpoint, so that no row it counts on is lost.

        Raises StorageFailure.
        """
        self.check_in_place()
        self.metrics.file.sync()
        self.evaluations.file.sync()

    def truncate_after(self, env_steps: int, end: int) -> None:
        """Drops the rows newer than the checkpoint that a run resumes from. Raises StorageFailure."""
        self.check_in_place()
        self.evaluations.truncate_after(env_steps, end)
        with storage_faults(self.path):
            kept = {(row.env_steps, row.kind) for row in self.evaluations.rows()}
        self.metrics.truncate_after(env_steps, kept)

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

    def check_in_place(self) -> None:
        """Raises StorageFailure if the run directory was removed or replaced; called before every write."""
        if self._lock is None:
            raise ValueError("this run directory is open for reading only, or closed")
        if not self._lock.in_place():
            raise StorageFailure(
                f"run directory {printable(str(self.path), 160)} was removed or replaced during the run"
            )

    def _acquire(self, action: str) -> None:
        """Takes the lock and removes files that a killed trainer had begun. Raises BadInput, StorageFailure."""
        try:
            self._lock = RunLock(self.path / LOCK)
        except Timeout:
            raise BadInput(f"run directory {printable(str(self.path), 160)} is in use by {self._holder()}") from None
        except OSError as error:
            raise _cannot(action, self.path, error) from error
        with storage_faults(self.path):
            for name in os.listdir(self.path):
                if name.startswith(TEMPORARY):
                    delete(self.path / name)

    def _holder(self) -> str:
        """The process that holds the lock, as far as meta.json tells."""
        meta = self._known_meta()
        pid, host = meta.get("pid"), meta.get("host")
        if type(pid) is not int or not 0 < pid < 2**31 or not isinstance(host, str):
            return "another process"
        return f"process {pid}" + ("" if host == socket.gethostname() else f" on host {printable(host)}")

    def _known_meta(self) -> dict[str, Any]:
        """The content of meta.json, empty if it is missing or damaged."""
        try:
            return self.meta()
        except BadInput:
            return {}

    def _is_trained(self) -> bool:
        """Whether the run has a checkpoint, metrics or evaluations. Raises BadInput."""
        try:
            checkpoints = os.listdir(self.checkpoints) if self.checkpoints.is_dir() else []
            rows = [self.metrics.file.lines(), self.evaluations.file.lines()]
        except OSError as error:
            raise _cannot("read run directory", self.path, error) from error
        return any(not name.startswith(TEMPORARY) for name in checkpoints) or any(rows)

    def _refuse_older_version(self) -> None:
        versions = self._known_meta().get("versions")
        version = versions.get("mtrl-suite") if isinstance(versions, dict) else None
        if isinstance(version, str) and ".".join(version.split(".")[:2]) in OLDER_VERSIONS:
            raise BadInput(
                f"run directory {printable(str(self.path), 160)} was written by mtrl-suite {printable(version)}, "
                "which reads it; this version does not"
            )

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


def _may_be_emptied(folder: Path) -> bool:
    """Whether the folder is empty or a run directory. Raises OSError."""
    names = {name for name in os.listdir(folder) if not name.startswith(TEMPORARY)}
    if names <= {LOCK}:  # nothing yet, or a trainer killed right after its start
        return not names or os.lstat(folder / LOCK).st_size == 0
    return (folder / META).is_file() and any((folder / name).is_file() for name in (LOCK, CONFIG))


def _refuse_linked_folders(folder: Path) -> None:
    """Raises BadInput if a folder of the run is a link: files elsewhere would be written and removed."""
    for name in FOLDERS:
        if (folder / name).is_symlink():
            raise BadInput(f"{printable(str(folder / name), 160)} is a link; a run directory holds its own folders")


def _cannot(action: str, folder: Path, error: OSError) -> Exception:
    if error.errno in _FULL_DISK:
        return storage_failure(error, folder)
    return BadInput(f"cannot {action} {printable(str(folder), 160)}: {reason(error)}")
