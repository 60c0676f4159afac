"""The metrics of a run as one table, `metrics.csv`: a column per metric, a line per row of metrics.jsonl."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtrl.checkpoints.files import replace_file
from mtrl.loggers.metric_logger import LoggedRun, MetricLogger, loggers
from mtrl.loggers.metric_rows import scalars
from mtrl.runs.logs import EVALUATION_KIND, EvaluationRow, RowFile
from mtrl.runs.run_directory import METRICS_TABLE


@loggers.register("csv")
class CSVLogger(MetricLogger):
    """A table for spreadsheets: metrics.csv, the numbers of metrics.jsonl."""

    def __init__(self, run: LoggedRun, config: Any):
        super().__init__(run, config)
        self._file = RowFile(run.folder / METRICS_TABLE)
        self._names: list[str] = []  # of the columns
        if run.resumed_at is not None:
            self._write_all()

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        cells = _cells(row)
        if cells.keys() <= set(self._names):
            self._file.append(_lines(self._names, [cells]))
        else:
            self._write_all()

    def on_evaluation(self, rows: Sequence[EvaluationRow], metrics: Mapping[str, Any]) -> None:
        self.on_metrics(metrics)

    def _write_all(self) -> None:
        """Writes the table anew from metrics.jsonl, which has every row first."""
        rows = [_cells(row) for row in self.run.rows()]
        self._names = list(dict.fromkeys(name for row in rows for name in row))
        self._file.close()
        header = {name: name for name in self._names}
        replace_file(self._file.path, _lines(self._names, [header, *rows]).encode())

    def close(self) -> None:
        self._file.close()


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    kind = {EVALUATION_KIND: row[EVALUATION_KIND]} if EVALUATION_KIND in row else {}
    return {"env_steps": row["env_steps"], **kind, **scalars(row)}


def _lines(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, names, lineterminator="\n").writerows(rows)
    return text.getvalue()
