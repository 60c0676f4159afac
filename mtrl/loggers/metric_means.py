"""Means of an agent's metrics over the updates of a log interval, summed where the metrics are. Shapes: M tasks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mtrl.types import Metrics, State

Layout = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and shapes of the metrics of an update."""


class MetricMeans:
    """Sums metrics without a word to the host: a GPU is waited for only when the means are asked for.

    A value that is NaN, such as the loss of a task without samples, counts in no mean. An update may have other metrics
    than the one before it.
    """

    def __init__(self, device: torch.device):
        self._device = device
        # Sums, and numbers of updates in which a value was not NaN, of all metrics of a layout: (2, numbers) float64.
        self._totals: dict[Layout, Tensor] = {}

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of one update, each (M, ...) or a scalar."""
        if not metrics:
            return
        # One vector, so that the work does not grow with the number of metrics.
        values = torch.cat([value.detach().to(self._device).flatten() for value in metrics.values()]).double()
        known = ~values.isnan()
        layout = tuple((name, tuple(value.shape)) for name, value in metrics.items())
        if layout not in self._totals:
            self._totals[layout] = values.new_zeros(2, len(values))
        self._totals[layout] += torch.stack([values.where(known, 0.0), known])

    def means(self) -> dict[str, Any]:
        """Means by name since the last `clear`, as numbers or nested lists; NaN where nothing was added."""
        totals: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        for layout, total in self._totals.items():
            for metric, part in zip(layout, total.cpu().split(_sizes(layout), dim=1), strict=True):
                totals[metric] = totals[metric] + part if metric in totals else part
        return {name: (sums / counts).reshape(shape).tolist() for (name, shape), (sums, counts) in totals.items()}

    def clear(self) -> None:
        """Begins a new interval."""
        self._totals = {}

    def state(self) -> State:
        layouts = [[[name, list(shape)] for name, shape in layout] for layout in self._totals]
        return {"layouts": layouts, "totals": [total.clone() for total in self._totals.values()]}

    def load_state(self, state: State) -> None:
        """Raises ValueError if the totals are not those of the layouts."""
        self._totals = {}
        for metrics, total in zip(state["layouts"], state["totals"], strict=True):
            layout = tuple((str(name), tuple(map(int, shape))) for name, shape in metrics)
            if total.shape != (2, sum(_sizes(layout))) or any(size < 0 for _, shape in layout for size in shape):
                raise ValueError(f"means of metrics have shape {tuple(total.shape)}, which is not that of {layout}")
            self._totals[layout] = total.to(self._device, torch.float64, copy=True)


def _sizes(layout: Layout) -> list[int]:
    return [math.prod(shape) for _, shape in layout]
