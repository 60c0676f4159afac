"""A clock that tests set."""

from __future__ import annotations

import pytest

from mtrl.loggers import live_table


class Clock:
    """Stands in for `time` in the live table."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(live_table, "time", clock)
    return clock
