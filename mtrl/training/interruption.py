"""Stops a run in good order: on SIGTERM, SIGUSR1, Ctrl-C, a closed terminal, or when its hours are over.

The handlers only set a flag, which the loop reads when nothing is in flight. A second signal changes nothing, so a save
that has begun is always finished. A signal that the process was started to ignore stays ignored: SIGHUP under `nohup`,
SIGINT in the background of a script.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

from mtrl.data_parallel.ranks import largest
from mtrl.errors import MtrlError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""SIGHUP is what a closed terminal sends, SIGUSR1 what a cluster may send before it takes a machine away."""


class Interrupted(MtrlError):
    """A signal stopped what was to be done; `exit_code` is 128 + its number."""

    def __init__(self, exit_code: int):
        super().__init__(f"stopped by a signal (exit code {exit_code})")
        self.exit_code = exit_code


class Interruption:
    """Truthy once the run shall stop; a context manager that installs the handlers and puts the old ones back."""

    def __init__(self, max_hours: float | None = None):
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._signal: int | None = None
        self._previous: dict[int, object] = {}

    def __bool__(self) -> bool:
        return self._signal is not None or self.out_of_time

    @property
    def out_of_time(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, or 0 where time was over."""
        return 0 if self._signal is None else 128 + self._signal

    @property
    def reason(self) -> str:
        return "time is over" if self._signal is None else signal.Signals(self._signal).name

    def agreed(self) -> bool:
        """Whether any rank of a data-parallel run shall stop: then all take it up, at the same step."""
        number, over = largest(self._signal or 0, self.out_of_time)
        self._signal = number or None
        self._deadline = time.monotonic() if over else self._deadline
        return bool(self)

    def __enter__(self) -> Self:
        # Only the main thread of a process may set handlers; elsewhere (a notebook's worker) the default stays.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal = number
