"""Repeated measurements: the median, and how far they spread."""

from __future__ import annotations

import statistics
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
        """The median with the lowest and highest in brackets."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"
