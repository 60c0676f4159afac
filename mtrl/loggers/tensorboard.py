"""Curves for TensorBoard."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mtrl.loggers.metric_logger import LoggedRun, MetricLogger, loggers
from mtrl.loggers.metric_rows import scalars
from mtrl.runs.logs import EvaluationRow
from mtrl.runs.run_directory import TENSORBOARD

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CELL = 16
"""Pixels of an element of a matrix."""

LAYOUT = {
    title: {name.replace("_", " "): ["Multiline", [f"{group}/{name}/.*"]] for name in names}
    for title, group, names in (
        ("evaluation, all tasks", "eval", ("success_rate", "return")),
        ("training, all tasks", "train", ("success_rate", "return", "share")),
        ("losses, all tasks", "losses", ("critic_loss", "actor_loss", "policy_loss", "value_loss")),
    )
}
"""Charts of the tab "custom scalars", each with the curves of all tasks; names are regular expressions."""


@loggers.register("tensorboard")
class TensorBoardLogger(MetricLogger):
    """Curves for TensorBoard, in the folder tb of the run."""

    def __init__(self, run: LoggedRun, config: Any):
        super().__init__(run, config)
        self._writer: SummaryWriter | None = None  # slow to import, and made at the first row

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        if self._writer is None:
            self._writer = self._make_writer()
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, row["env_steps"])
        for name, picture in cosines(row).items():
            self._writer.add_image(name, picture, row["env_steps"], dataformats="HWC")

    def on_evaluation(self, rows: Sequence[EvaluationRow], metrics: Mapping[str, Any]) -> None:
        self.on_metrics(metrics)

    def _make_writer(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        _silence_writer_threads()
        # TensorBoard hides what is newer than the checkpoint that a run goes on from.
        purge = None if self.run.resumed_at is None else self.run.resumed_at + 1
        writer = SummaryWriter(str(self.run.folder / TENSORBOARD), purge_step=purge)
        writer.add_custom_scalars(LAYOUT)
        writer.add_text("config", textwrap.indent(self.run.config, "    "), 0)  # as a block of code in Markdown
        return writer

    def close(self) -> None:
        """Writes what is buffered."""
        if self._writer is not None:
            self._writer.close()


def cosines(row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The matrices `NAME/cosine/TASK` of a row of metrics as pictures (H, W, 3) uint8.

    1 is blue, 0 and what is not known white, -1 red.
    """
    matrices: dict[str, list[Any]] = {}
    for name, value in row.items():
        start, found, _ = name.partition("/cosine/")
        if found and isinstance(value, list):
            matrices.setdefault(f"{start}/cosine", []).append(value)
    pictures = {}
    for name, rows in matrices.items():
        matrix = np.nan_to_num(np.array(rows, np.float64))
        away = np.clip(1 - np.abs(matrix), 0, 1)
        colors = np.stack([np.where(matrix > 0, away, 1), away, np.where(matrix < 0, away, 1)], -1)
        pictures[name] = np.kron(255 * colors, np.ones((CELL, CELL, 1))).astype(np.uint8)
    return pictures


def _silence_writer_threads() -> None:
    """TensorBoard's thread prints a traceback when it cannot write, and raises the same error at the next call."""
    hook = threading.excepthook
    if getattr(hook, "silences_tensorboard", False):
        return

    def excepthook(args: threading.ExceptHookArgs) -> None:
        if type(args.thread).__name__ != "_AsyncWriterThread":
            hook(args)

    excepthook.silences_tensorboard = True  # type: ignore[attr-defined]
    threading.excepthook = excepthook
