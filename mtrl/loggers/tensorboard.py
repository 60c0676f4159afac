"""Curves for TensorBoard. If they cannot be written the run goes on without them."""

from __future__ import annotations

import logging
import textwrap
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtrl.checkpoints.files import printable
from mtrl.loggers.metric_logger import MetricLogger
from mtrl.loggers.metric_rows import scalars
from mtrl.runs.logs import EvaluationRow

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

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


class TensorBoardLogger(MetricLogger):
    """Writes scalars under `folder`; the writer, slow to import, is made at the first of them."""

    def __init__(self, folder: Path, config: str = "", resumed_at: int | None = None):
        """config: YAML, for the tab "text".

        resumed_at: env steps of the checkpoint a run goes on from; TensorBoard hides what was newer.
        """
        self.folder, self._config, self._resumed_at = folder, config, resumed_at
        self._writer: SummaryWriter | None = None
        self._working = True

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        self._add(row["env_steps"], scalars(row), cosines(row))

    def on_evaluation(self, rows: Sequence[EvaluationRow], metrics: Mapping[str, Any]) -> None:
        self.on_metrics(metrics)

    def _add(self, env_steps: int, values: Mapping[str, float], pictures: Mapping[str, np.ndarray] = {}) -> None:
        """Adds one point to the curve of each name, and the pictures (H, W, 3) uint8.

        Never raises; the first fault is logged and ends the writing.
        """
        if not self._working:
            return
        try:
            if self._writer is None:
                # Costs a second, and a broken TensorBoard installation may raise anything.
                from torch.utils.tensorboard import SummaryWriter

                _silence_writer_threads()
                purge = None if self._resumed_at is None else self._resumed_at + 1
                self._writer = SummaryWriter(str(self.folder), purge_step=purge)
                self._writer.add_custom_scalars(LAYOUT)
                # As a block of code in Markdown.
                self._writer.add_text("config", textwrap.indent(self._config, "    "), 0)
            for name, value in values.items():
                self._writer.add_scalar(name, value, env_steps)
            for name, picture in pictures.items():
                self._writer.add_image(name, picture, env_steps, dataformats="HWC")
        except Exception as error:
            self._fail(error)

    def close(self) -> None:
        """Writes what is buffered. Never raises."""
        writer, self._writer = self._writer, None
        if writer is not None and self._working:
            try:
                writer.close()
            except Exception as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._working = False
        reason = f"{type(error).__name__}: {printable(str(error), 160)}"
        logger.warning("no TensorBoard curves in %s: %s", printable(str(self.folder), 160), reason)


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
