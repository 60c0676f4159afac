"""The report of runs: an HTML file, and the same as CSV and PNG files. Shapes: M tasks."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

import mtrl
from mtrl.checkpoints.files import storage_faults
from mtrl.report import figures
from mtrl.report.figures import Picture
from mtrl.report.methods import MARKS, Method, by_protocol, differing, marks
from mtrl.report.runs import RETURN, Protocol, read_runs
from mtrl.report.statistics import Estimate, estimate, interquartile_mean, probability_of_improvement, task_mean

TEMPLATE = "report.html"


@dataclass(frozen=True)
class Row:
    """A method in the summary."""

    method: Method
    iqm: Estimate
    mean: Estimate
    worst: tuple[str, float]  # task and its mean score
    marks: str


@dataclass(frozen=True)
class Section:
    """Everything about the runs of one protocol."""

    protocol: Protocol
    rows: Sequence[Row]  # best mean first
    improvement: Sequence[Sequence[Estimate | None]]  # P(row better than column), in the order of the rows
    pictures: dict[str, list[Picture]] = field(default_factory=dict)

    @property
    def methods(self) -> list[Method]:
        return [row.method for row in self.rows]

    @property
    def settings(self) -> dict[str, Any]:
        return dict(json.loads(self.protocol.settings))

    @property
    def differences(self) -> dict[str, list[Any]]:
        """Settings that are not the same for all methods, one value per method."""
        settings = [method.settings for method in self.methods]
        return {name: [own.get(name, "") for own in settings] for name in differing(settings)}

    @property
    def notes(self) -> list[str]:
        """What the marks in use mean."""
        used = {mark for row in self.rows for mark in row.marks}
        return [f"{mark} {text}" for mark, text in MARKS.items() if mark in used]

    @property
    def task_rows(self) -> list[tuple[str, list[tuple[float, float]]]]:
        """For every task: its name, and mean score and shade in [0, 1] of every method."""
        means = np.array([method.scores.mean(0) for method in self.methods])  # (methods, M)
        if self.protocol.score == RETURN:  # of no common scale
            low, high = means.min(0), means.max(0)
            shades = (means - low) / np.where(high > low, high - low, 1)
        else:
            shades = means.clip(0, 1)
        return [
            (name, list(zip(means[:, task].tolist(), shades[:, task].tolist(), strict=True)))
            for task, name in enumerate(self.protocol.tasks)
        ]

    @property
    def equal_shares(self) -> bool:
        return not self.pictures["shares"]


def make_section(protocol: Protocol, methods: Sequence[Method]) -> Section:
    """Statistics and figures of the methods of one protocol."""
    ordered = sorted(methods, key=lambda method: -method.scores.mean())
    rows = []
    for method in ordered:
        means = method.scores.mean(0)
        worst = int(means.argmin())
        rows.append(
            Row(
                method,
                estimate(interquartile_mean, method.scores),
                estimate(task_mean, method.scores),
                (protocol.tasks[worst], float(means[worst])),
                marks(method, ordered),
            )
        )
    pictures = {
        "curves": _some(figures.mean_curves(protocol, ordered)),
        "profile": [figures.profiles(protocol, ordered)],
        "tasks": _some(figures.task_curves(protocol, ordered)),
        "shares": _some(figures.shares(protocol, ordered)),
        "matrices": figures.matrices(protocol, ordered, conflicts=False),
        "conflicts": figures.matrices(protocol, ordered, conflicts=True),
        "relations": figures.affinities(ordered),
    }
    return Section(protocol, rows, _improvement(ordered), pictures)


def _some(picture: Picture | None) -> list[Picture]:
    return [] if picture is None else [picture]


def _improvement(methods: Sequence[Method]) -> list[list[Estimate | None]]:
    table: list[list[Estimate | None]] = [[None for _ in methods] for _ in methods]
    for row, first in enumerate(methods):
        for column in range(row + 1, len(methods)):
            own = estimate(probability_of_improvement, first.scores, methods[column].scores)
            table[row][column] = own
            table[column][row] = Estimate(1 - own.value, 1 - own.high, 1 - own.low)
    return table


def write_report(paths: Sequence[str], output: Path, *, csv_files: bool = False, png_files: bool = False) -> list[Path]:
    """Writes the report of the runs at `[LABEL=]PATH`; returns the files written, the HTML file first.

    CSV files stand beside the HTML file, PNG files in a folder beside it. Raises BadInput, StorageFailure.
    """
    runs, left_out = read_runs(paths)
    sections = [make_section(protocol, methods) for protocol, methods in by_protocol(runs).items()]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mtrl.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"estimate": _shown, "number": _number, "spread": _spread, "versions": _versions}
    text = environment.get_template(TEMPLATE).render(
        sections=sections, left_out=left_out, num_runs=len(runs), version=mtrl.__version__
    )
    written = [output]
    with storage_faults(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
        if csv_files:
            written += [
                _write_csv(output.with_name(f"{output.stem}-summary.csv"), _summary(sections)),
                _write_csv(output.with_name(f"{output.stem}-scores.csv"), _scores(sections)),
            ]
        if png_files:
            written += _write_png(sections, output.with_name(f"{output.stem}-figures"))
    return written


def _write_png(sections: Sequence[Section], folder: Path) -> list[Path]:
    written = []
    for number, section in enumerate(sections, start=1):
        own = folder if len(sections) == 1 else folder / f"{number}-{section.protocol.suite.replace('/', '-')[:60]}"
        own.mkdir(parents=True, exist_ok=True)
        written += [picture.write_png(own) for pictures in section.pictures.values() for picture in pictures]
    return written


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


def _summary(sections: Sequence[Section]) -> Iterable[Sequence[Any]]:
    intervals = [f"{statistic}{end}" for statistic in ("iqm", "mean") for end in ("", "_low", "_high")]
    yield ["suite", "protocol", "score", "method", "seeds", "env_steps", "episodes_per_task", *intervals]
    for section in sections:
        for row in section.rows:
            method, protocol = row.method, section.protocol
            about = [protocol.suite, protocol.name, protocol.score, method.name]
            yield [*about, len(method.runs), method.env_steps, method.episodes, *row.iqm, *row.mean]


def _scores(sections: Sequence[Section]) -> Iterable[Sequence[Any]]:
    yield ["suite", "method", "seed", "task", "env_steps", "episodes", "success_rate", "mean_return", "score", "run"]
    for section in sections:
        for method in section.methods:
            for run in method.runs:
                for row, score in zip(run.evaluation, run.scores.tolist(), strict=True):
                    about = [section.protocol.suite, method.name, run.seed, row.task, row.env_steps, row.episodes]
                    yield [*about, row.success_rate, row.mean_return, score, run.path]


def _number(value: float | None, digits: int = 3) -> str:
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:,.0f}"


def _shown(own: Estimate | None) -> str:
    """A value with its interval in brackets."""
    if own is None:
        return ""
    return _number(own.value) + (f" [{_number(own.low)}, {_number(own.high)}]" if np.isfinite(own.low) else "")


def _spread(values: Iterable[float], digits: int) -> str:
    """The median, and the lowest and highest in brackets where there are several."""
    known = np.array([value for value in values if np.isfinite(value)])
    if not len(known):
        return "–"
    middle, low, high = (f"{own:,.{digits}f}" for own in (np.median(known), known.min(), known.max()))
    return middle if low == high else f"{middle} ({low} to {high})"


def _versions(method: Method) -> str:
    """What the runs of a method were made with."""
    found: dict[str, None] = {}
    for run in method.runs:
        versions, git = _entry(run.meta, "versions"), _entry(run.meta, "git")
        release = f"mtrl-suite {versions.get('mtrl-suite', '?')} {str(git.get('commit', ''))[:9]}".strip()
        machine = f"{run.meta.get('device')}, {run.meta.get('cores')} cores"
        found[f"{release}, torch {versions.get('torch', '?')}, {machine}"] = None
    return "; ".join(found)


def _entry(meta: Any, name: str) -> dict[str, Any]:
    own = meta.get(name)
    return own if isinstance(own, dict) else {}
