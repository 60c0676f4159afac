"""Figures of a report with matplotlib. Shapes: S seeds, M tasks, T rows of time, K thresholds."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from mtrl.relations.relations_file import Relations, relations_of
from mtrl.report.methods import Method
from mtrl.report.runs import RETURN, Protocol
from mtrl.report.statistics import mean_band, performance_profile

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Of methods; Okabe and Ito's, which the colour-blind can tell apart."""
DASHES = ("-", "--", ":")
"""Of further methods than there are colours."""

COLUMNS = 4
"""Panels side by side at most."""

MAX_NUMBERS = 20
"""Columns of a matrix up to which its numbers are written into it."""


@dataclass(frozen=True)
class Picture:
    """A figure with its file name (without suffix) and what it shows."""

    name: str
    caption: str
    figure: Figure

    def svg(self) -> str:
        """As an element of an HTML page; text stays text."""
        text = io.StringIO()
        # Every figure has identifiers of its own: they hold for the whole page.
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure.savefig(text, format="svg", metadata={"Date": None})
        svg = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
        return re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :])

    def write_png(self, folder: Path) -> Path:
        """Raises OSError."""
        path = folder / f"{self.name}.png"
        self.figure.savefig(path, dpi=150)
        return path


def mean_curves(protocol: Protocol, methods: Sequence[Method]) -> Picture | None:
    """Mean over tasks of the periodic evaluations; None if there were none."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    for index, method in enumerate(methods):
        steps, scores = method.curves()
        if len(steps):
            _band(axis, steps, scores.mean(-1), method.name, index)
    if not axis.lines:
        return None
    _dress(axis, protocol, f"{protocol.score}, mean of {len(protocol.tasks)} tasks")
    _legend(figure, axis)
    caption = f"{protocol.score.capitalize()} in the evaluations during training, mean over tasks and then over seeds."
    return Picture("mean-curves", f"{caption} {_BANDS}", figure)


def task_curves(protocol: Protocol, methods: Sequence[Method]) -> Picture | None:
    """The same task by task."""
    curves = [method.curves() for method in methods]
    if not any(len(steps) for steps, _ in curves):
        return None
    figure, axes = _panels(len(protocol.tasks), height=1.9)
    for task, (axis, name) in enumerate(zip(axes, protocol.tasks, strict=False)):
        for index, (method, (steps, scores)) in enumerate(zip(methods, curves, strict=True)):
            if len(steps):
                _band(axis, steps, scores[:, :, task], method.name, index)
        axis.set_title(name, fontsize=8, parse_math=False)
        _dress(axis, protocol)
    _legend(figure, axes[0])
    return Picture("task-curves", f"{protocol.score.capitalize()} of every task, mean over seeds. {_BANDS}", figure)


def profiles(protocol: Protocol, methods: Sequence[Method]) -> Picture:
    """Performance profiles."""
    scores = [method.scores for method in methods]
    low, high = min(0.0, *(own.min() for own in scores)), max(own.max() for own in scores)
    thresholds = np.linspace(low, max(high, low + 1e-9), 101)
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axis = figure.subplots()
    for index, (method, own) in enumerate(zip(methods, scores, strict=True)):
        _band(axis, thresholds, performance_profile(own, thresholds), method.name, index)
    axis.set_xlabel(f"{protocol.score} above which a task counts", fontsize=8)
    axis.set_ylabel("share of tasks and seeds", fontsize=8)
    axis.set_ylim(-0.02, 1.02)
    _plain(axis)
    _legend(figure, axis)
    return Picture(
        "profile", f"Performance profile: share of tasks with a score above each threshold. {_BANDS}", figure
    )


def shares(protocol: Protocol, methods: Sequence[Method]) -> Picture | None:
    """Shares of the tasks over time, of methods that change them; None if none does."""
    found = {method.name: method.of_tasks("train/share") for method in methods}
    # Seeds that were logged at other steps have none in common.
    known = {name: own for name, own in found.items() if own is not None and len(own[0])}
    changing = {name: own for name, own in known.items() if np.ptp(own[1], axis=0).max() > 1e-9}
    if not changing:
        return None
    figure, axes = _panels(len(changing), height=2.4)
    for axis, (name, (steps, values)) in zip(axes, changing.items(), strict=False):
        colors = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(protocol.tasks)))
        axis.stackplot(steps, values.T, labels=protocol.tasks, colors=colors, linewidth=0)
        axis.set_title(name, fontsize=8, parse_math=False)
        axis.set_ylim(0, 1)
        axis.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
        _steps(axis)
    _legend(figure, axes[0])
    return Picture("shares", "Shares of the tasks in episodes and batches, mean over seeds.", figure)


def matrices(protocol: Protocol, methods: Sequence[Method], conflicts: bool) -> list[Picture]:
    """The last matrices of every method's first seed: routes, gates, mixtures; or, conflicts, cosines of gradients."""
    pictures = []
    for number, method in enumerate(methods):
        run = method.runs[0]
        for name, values in sorted(_last_matrices(run.columns, protocol.tasks).items()):
            if name.endswith("/cosine") is conflicts:
                caption = f"{method.name}, seed {run.seed}: {name} at {int(run.columns['env_steps'][-1]):,} env steps."
                file = f"matrix-{number + 1}-{re.sub(r'[^A-Za-z0-9]+', '-', name)}"
                pictures.append(Picture(file, caption, _matrix(values, protocol.tasks, conflicts)))
    return pictures


def affinities(methods: Sequence[Method]) -> list[Picture]:
    """The heat maps of what `mtrl relations` has left in the run directories."""
    pictures: list[Picture] = []
    for method in methods:
        for run in method.runs:
            for own in relations_of(run.path):
                picture = affinity(own)
                caption = f"{method.name}, seed {run.seed}: {picture.caption}"
                name = f"{picture.name}-{len(pictures) + 1}"
                pictures.append(Picture(name, caption, picture.figure))
    return pictures


def affinity(relations: Relations) -> Picture:
    """The heat map of an affinity (M, M); colours leave out the diagonal."""
    values = relations.affinity
    others = values[~np.eye(len(values), dtype=bool)]
    others = others[np.isfinite(others)]
    low, high = (float(others.min()), float(others.max())) if len(others) else (0.0, 1.0)
    signed = low < 0
    if signed:
        high = max(-low, high)
        low = -high
    figure = _heat_map(values, relations.tasks, relations.tasks, (low, max(high, low + 1e-12)), signed)
    steps = ", ".join(f"{int(own['env_steps']):,}" for own in relations.runs[:1])
    caption = f"{relations.measure} after {steps} env steps; row: what the task does for that of the column."
    return Picture(f"relations-{relations.measure}", caption, figure)


_BANDS = "Bands: 95 % bootstrap intervals over seeds."


def _last_matrices(columns: Mapping[str, np.ndarray], tasks: Sequence[str]) -> dict[str, np.ndarray]:
    """Metrics with several numbers per task, as they stood last: (M, numbers)."""
    first = f"/{tasks[0]}"
    names = [name.removesuffix(first) for name, own in columns.items() if own.dtype == object and name.endswith(first)]
    found = {}
    for name in names:
        own = [_last(columns.get(f"{name}/{task}", np.zeros(0))) for task in tasks]
        if all(isinstance(value, list) for value in own):
            flat = [np.array(value, np.float64).ravel() for value in own]
            if len({len(value) for value in flat}) == 1:
                found[name] = np.stack(flat)
    return found


def _last(column: np.ndarray) -> Any:
    return next((value for value in reversed(column.tolist()) if value is not None), None)


def _matrix(values: np.ndarray, tasks: Sequence[str], conflicts: bool) -> Figure:
    if conflicts:
        return _heat_map(values, tasks, tasks, (-1.0, 1.0), signed=True)
    # Shares have one scale in all figures.
    figure = _heat_map(values, tasks, None, (min(0.0, float(values.min())), max(1.0, float(values.max()))), False)
    axis = figure.axes[0]
    axis.tick_params(axis="x", labelsize=7)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("number of the task's matrix, row by row", fontsize=7)
    return figure


def _heat_map(
    values: np.ndarray, names: Sequence[str], columns: Sequence[str] | None, scale: tuple[float, float], signed: bool
) -> Figure:
    """A matrix with the names of its rows and columns. signed: 0 is the middle of the scale."""
    rows, numbers = values.shape
    figure = Figure(figsize=(min(9, 2.2 + 0.42 * max(numbers, 4)), 0.8 + 0.26 * rows), layout="constrained")
    axis = figure.subplots()
    low, high = scale
    image = axis.imshow(values, aspect="auto", cmap="RdBu" if signed else "Blues", vmin=low, vmax=high)
    shades = np.asarray(image.norm(values))  # in [0, 1]
    axis.set_yticks(range(rows), names, fontsize=7, parse_math=False)
    if columns is not None:
        axis.set_xticks(range(numbers), columns, fontsize=7, rotation=45, ha="right", parse_math=False)
    if numbers <= MAX_NUMBERS:
        digits = 2 if max(-low, high) >= 0.1 else 4
        for row, column in np.argwhere(np.isfinite(values)).tolist():
            shade = float(shades[row, column])
            dark = abs(shade - 0.5) > 0.3 if signed else shade > 0.6
            text = f"{values[row, column]:.{digits}f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=6, color="white" if dark else "black")
    figure.colorbar(image, ax=axis).ax.tick_params(labelsize=7)
    return figure


def _panels(number: int, height: float) -> tuple[Figure, list[Axes]]:
    """A grid of panels; those that are not needed are empty."""
    across = min(COLUMNS, number)
    down = -(-number // across)
    figure = Figure(figsize=(max(4.5, 2.5 * across), height * down + 0.5), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flatten())
    for axis in axes[number:]:
        axis.set_axis_off()
    return figure, axes


def _band(axis: Axes, steps: np.ndarray, curves: np.ndarray, name: str, index: int) -> None:
    """Mean and interval over seeds of curves (S, T)."""
    color, dash = COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]
    mean, low, high = mean_band(curves)
    marker = "o" if len(steps) == 1 else ""
    axis.plot(steps, mean, color=color, linestyle=dash, linewidth=1.5, marker=marker, label=name)
    axis.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)


def _dress(axis: Axes, protocol: Protocol, label: str = "") -> None:
    axis.set_ylabel(label, fontsize=8)
    if protocol.score != RETURN:
        axis.set_ylim(bottom=min(-0.02, axis.get_ylim()[0]), top=max(1.02, axis.dataLim.ymax * 1.05))
    _plain(axis)
    _steps(axis)


def _steps(axis: Axes) -> None:
    axis.set_xlabel("env steps", fontsize=7)
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.tick_params(labelsize=7)


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.tick_params(labelsize=7)


def _legend(figure: Figure, axis: Axes) -> None:
    """The names of the lines of an axis, or of its areas where it has no lines."""
    handles: list[Any] = [*(axis.lines or axis.collections)]
    labels = [str(handle.get_label()) for handle in handles]
    longest = max(map(len, labels))
    across = max(1, min(len(labels), int(figure.get_figwidth() / (0.5 + 0.065 * longest))))
    numbers = [*map(str, range(len(labels)))]
    legend = figure.legend(handles, numbers, loc="outside lower center", ncols=across, fontsize=7, frameon=False)
    # A legend leaves out labels that begin with an underscore, and reads formulas between dollars.
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set(text=label, parse_math=False)
