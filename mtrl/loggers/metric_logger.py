"""The protocol of metric loggers: a run calls each of them in turn. Shapes: M tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mtrl.errors import BadInput
from mtrl.registry import Registry
from mtrl.runs.logs import EvaluationRow, MetricsLog
from mtrl.runs.run_directory import METRICS
from mtrl.types import Progress


class LoggedRun(NamedTuple):
    """What a logger or callback is told of its run."""

    folder: Path  # the run directory
    config: str  # all settings, YAML
    resumed_at: int | None = None  # env steps of the checkpoint a resumed run goes on from; None: a new run

    @property
    def name(self) -> str:
        """The last two folders of the run directory, such as `runs/a`."""
        return "/".join(self.folder.absolute().parts[-2:]).strip("/")

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics logged so far; of a resumed run those up to its checkpoint. Raises OSError."""
        return MetricsLog(self.folder / METRICS).rows()


class MetricLogger:
    """A receiver of metrics; by default it ignores everything. None of them may change what is learned.

    One of your own is `--logger MODULE:CLASS`. A fault of a logger ends its logging, and not the run.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Settings, `--logger-settings NAME.SETTING VALUE`; fields with defaults, as of every plug-in."""

    def __init__(self, run: LoggedRun, config: Any):
        self.run, self.config = run, config

    @classmethod
    def check_packages(cls) -> None:
        """Raises BadInput if a package that the logger needs is not installed; called before the run begins."""

    def on_progress(self, progress: Progress, shares: Sequence[float]) -> None:
        """Called with every `Progress`, many times a second; shares (M,) are the scheduler's."""

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        """Called once per log interval with `env_steps` and metrics by name, see `mtrl.loggers.metric_rows`."""

    def on_evaluation_progress(self, ended: int, total: int) -> None:
        """Called while an evaluation plays, many times a second, with its episodes that have ended and all of them."""

    def on_evaluation(self, rows: Sequence[EvaluationRow], metrics: Mapping[str, Any]) -> None:
        """Called with every evaluation: a row per task in task order, and the same as a row of metrics."""

    def on_checkpoint(self, env_steps: int, folder: Path) -> None:
        """Called when a checkpoint stands: `step_N`, which can be resumed from, or `best_N` of the best evaluation.

        env_steps: steps of single environments since the start of the run.
        """

    def close(self) -> None:
        """Called at the end of the run, also of one that fails."""


class Callback(MetricLogger):
    """What a user adds to a run as `--callback MODULE:CLASS`: a logger whose faults end the run as those of a plug-in.

    It is called after the loggers: what it is told of stands in the run directory. Nothing of it is saved: what has to
    outlive a resume belongs into a file of `self.run.folder`, and `self.run.resumed_at` says where to go on.
    """


loggers: Registry[MetricLogger] = Registry("logger", MetricLogger)
callbacks: Registry[Callback] = Registry("callback", Callback)


@loggers.register("none")
class NoLogger(MetricLogger):
    """Nothing beside the terminal and metrics.jsonl."""


def missing_package(package: str, extra: str) -> BadInput:
    """The error for a package that an optional logger needs."""
    return BadInput(f"logger {extra!r} needs the package {package}: pip install 'mtrl-suite[{extra}]'")
