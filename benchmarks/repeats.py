"""Repeated measurements: the median, and how far they spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Repeats:
    """One number per repeat; repeats of contestants that took turns belong together by position."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def ratio_to(self, other: Repeats) -> Repeats:
        """The ratio of every repeat. Raises ValueError for another number of repeats."""
        return Repeats(tuple(own / theirs for own, theirs in zip(self.values, other.values, strict=True)))

    def json(self) -> dict[str, Any]:
        return {"median": self.median, "low": self.low, "high": self.high, "values": list(self.values)}

    def shown(self, digits: int) -> str:
        """The median with the lowest and highest in brackets, or the only value."""
        if len(self.values) == 1:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def interleaved_milliseconds(
    contestants: Mapping[str, Callable[[], object]],
    repeats: int,
    turns_per_repeat: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Repeats]:
    """Milliseconds per call; in a turn every contestant is called once, and a repeat is the median of its turns.

    clock: in seconds. `time.process_time` counts the processor time of this process, for a machine that is busy.
    """
    for call in contestants.values():  # allocates, and starts the threads
        call()
        call()
    medians: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        turns: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(turns_per_repeat):
            for name, call in contestants.items():
                started = clock()
                call()
                turns[name].append(1e3 * (clock() - started))
        for name, milliseconds in turns.items():
            medians[name].append(statistics.median(milliseconds))
    return {name: Repeats(tuple(values)) for name, values in medians.items()}
