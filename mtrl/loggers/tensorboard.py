"""Curves for TensorBoard. If they cannot be written the run goes on without them."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtrl.checkpoints.files import printable
from mtrl.loggers.metric_logger import MetricLogger, scalars
from mtrl.runs.logs import EvaluationRow

logger = logging.getLogger(__name__)


class TensorBoardLogger(MetricLogger):
    """Writes scalars under `folder`; the file is made at the first of them."""

    def __init__(self, folder: Path, resumed_at: int | None = None):
        """resumed_at: env steps of the checkpoint a run goes on from; TensorBoard hides what was newer."""
        self.folder, self._resumed_at = folder, resumed_at
        self._file: _EventFile | None = None
        self._working = True

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        self._add(row["env_steps"], scalars(row))

    def on_evaluation(self, rows: Sequence[EvaluationRow], scores: Mapping[str, float | Mapping[str, float]]) -> None:
        curves = {f"eval_success_rate/{row.task}": row.success_rate for row in rows}
        curves |= {f"eval_{name}": value for name, value in scalars(scores).items()}
        self._add(rows[0].env_steps, curves)

    def _add(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Adds one point to the curve of each name. Never raises; the first fault is logged and ends the writing."""
        if not self._working:
            return
        try:
            if self._file is None:
                self._file = _EventFile(self.folder, None if self._resumed_at is None else self._resumed_at + 1)
            self._file.add(env_steps, values)
        except Exception as error:
            self._fail(error)

    def close(self) -> None:
        """Never raises."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except Exception as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._working:
            reason = f"{type(error).__name__}: {printable(str(error), 160)}"
            logger.warning("no TensorBoard curves in %s: %s", printable(str(self.folder), 160), reason)
        self._working = False


class _EventFile:
    """A file of TensorBoard's events. Torch's `SummaryWriter` has a thread, whose faults are printed as tracebacks."""

    def __init__(self, folder: Path, purge_step: int | None):
        """purge_step: points from there on in older files are not shown."""
        # A broken TensorBoard installation may raise anything.
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        # Names that contain this are what TensorBoard reads, in their order.
        name = f"events.out.tfevents.{time.time_ns() // 10**9}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(folder / name, "ab", buffering=0)  # noqa: SIM115 - kept open
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if purge_step is not None:
            self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=Summary(value=points))

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def close(self) -> None:
        self._file.close()
