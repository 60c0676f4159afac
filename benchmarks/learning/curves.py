"""Picture of success rates in training, one panel per task of every suite, one line per method."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from benchmarks.learning.results import Entry, SeedResult

COLUMNS = 5
"""Panels side by side at most."""


def draw(suites: Mapping[str, Sequence[Entry]], path: Path) -> None:
    """Lines are medians over seeds, bands reach from the lowest seed to the highest."""
    panels = [(suite, task) for suite, entries in suites.items() for task in entries[0].tasks]
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    # A figure without pyplot has no global state and needs no display.
    figure = Figure(figsize=(3 * columns, 2.2 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    methods = list(dict.fromkeys(entry.method for entries in suites.values() for entry in entries))
    for axis, (suite, task) in zip(axes, panels, strict=False):
        for entry in suites[suite]:
            color = f"C{methods.index(entry.method) % 10}"
            steps, middle, low, high = _over_seeds(entry.seeds, task)
            axis.plot(steps, middle, color=color, label=entry.method)
            axis.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        axis.set_title(f"{suite}: {task}", fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set_ylim(-0.02, 1.02)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("env steps", fontsize=7)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    axes[0].set_ylabel("success rate in training", fontsize=7)
    handles = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=7)
    figure.savefig(path, dpi=150)


def _over_seeds(seeds: Sequence[SeedResult], task: str) -> tuple[list[int], list[float], list[float], list[float]]:
    """Env steps at which any seed has a rate of the task, and the median, lowest and highest of those that have."""
    rates: dict[int, list[float]] = {}
    for result in seeds:
        for row in result.curves:
            rate = row.get(f"train/success_rate/{task}")
            if rate is not None:
                rates.setdefault(row["env_steps"], []).append(rate)
    steps = sorted(rates)
    values = [rates[step] for step in steps]
    return steps, [statistics.median(own) for own in values], [min(own) for own in values], [max(own) for own in values]
