"""What the tracking tools have in common: the run that a resume goes on with, and which rows it has."""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mtrl.checkpoints.files import replace_file
from mtrl.checkpoints.json_text import dump_json, parse_json
from mtrl.loggers.metric_logger import LoggedRun, MetricLogger, missing_package
from mtrl.loggers.metric_rows import scalars
from mtrl.runs.logs import EvaluationRow
from mtrl.runs.run_directory import LOGGERS


class TrackedRun(MetricLogger):
    """A logger that sends the numbers of every row to a run of a tracking tool.

    The run's id, and how many rows it was sent, are kept in `loggers/NAME.json`. Rows are counted as in metrics.jsonl:
    a resumed run leaves out those that it sends again, and makes up for those that the tool did not get.
    """

    name: ClassVar[str]  # of the logger and of its extra
    package: ClassVar[str]  # that is imported

    def __init__(self, run: LoggedRun, config: Any):
        super().__init__(run, config)
        self._path = run.folder / LOGGERS / f"{self.name}.json"
        self._path.parent.mkdir(exist_ok=True)
        stored = parse_json(self._path.read_bytes()) if self._path.exists() else {}
        self._num_sent = stored.get("num_rows", 0)
        self._id = self.start(stored.get("run"))
        self._num_rows = 0
        self._note()
        for row in run.rows():
            self.on_metrics(row)

    @classmethod
    def check_packages(cls) -> None:
        if importlib.util.find_spec(cls.package) is None:
            raise missing_package(cls.package, cls.name)

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        if self._num_rows >= self._num_sent:
            self.send(self._num_rows, row["env_steps"], scalars(row))
            self._num_sent = self._num_rows + 1
            self._note()
        self._num_rows += 1

    def on_evaluation(self, rows: Sequence[EvaluationRow], metrics: Mapping[str, Any]) -> None:
        self.on_metrics(metrics)

    def _note(self) -> None:
        replace_file(self._path, dump_json({"run": self._id, "num_rows": self._num_sent}) + b"\n")

    @abstractmethod
    def start(self, run_id: str | None) -> str:
        """Begins a run, or goes on with the one of this id; returns its id."""

    @abstractmethod
    def send(self, index: int, env_steps: int, values: Mapping[str, float]) -> None:
        """Adds a row, the `index`-th of the run from 0 on: a point to the curve of each name."""
