"""The live table of several runs, read from what they write to their run directories."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mtrl.launch.processes import ChildRun
from mtrl.launch.run_status import read_standing
from mtrl.loggers.console import guarded, make_console, say
from mtrl.loggers.live_table import clock

_REFRESH_SECONDS = 2.0
_LINE_SECONDS = 60.0
"""Between two plain lines where there is no terminal."""

MAX_ROWS = 20
"""Of the live table; of more runs it shows those that run, and how many there are of the others."""

STYLES = {
    "done": "green",
    "failed": "red",
    "stopped": "yellow",
    "interrupted": "yellow",
    "pruned": "yellow",
    "running": "cyan",
    "waiting": "",
}


def counted(states: Sequence[str]) -> str:
    """`12 runs: 8 done, 4 waiting`."""
    counts = ", ".join(f"{states.count(state)} {state}" for state in STYLES if state in states)
    return f"{len(states)} run{'' if len(states) == 1 else 's'}" + (f": {counts}" if counts else "")


class RunsTable:
    """A context manager; `update` draws when it is time to."""

    def __init__(self, runs: Sequence[ChildRun], console: Console | None = None):
        """runs: more may be added later."""
        self._runs = runs
        self._console = console or make_console()
        self._live: Live | None = None
        self._drawn = -_LINE_SECONDS
        self._states: dict[str, str] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=False)
            self._draw(self._live.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        live, self._live = self._live, None
        if live is not None:
            self._draw(lambda: live.update(self.render()))
            self._draw(live.stop)
        else:
            guarded(lambda: self._console.print(self.render()))

    def update(self) -> None:
        now, live = time.monotonic(), self._live
        if live is not None:
            if now - self._drawn >= _REFRESH_SECONDS:
                self._drawn = now
                self._draw(lambda: live.update(self.render(), refresh=True))
            return
        for run in self._runs:
            if self._states.get(run.name) != run.state:
                self._states[run.name] = run.state
                if run.state != "waiting":
                    say(f"{run.name}: {run.state}")
        if now - self._drawn >= _LINE_SECONDS:
            self._drawn = now
            standings = [(run, read_standing(run.run_dir)) for run in self._runs if run.state == "running"]
            if any(at.env_steps for _, at in standings):
                say("  ".join(f"{run.name} {at.env_steps / run.total_env_steps:.1%}" for run, at in standings))

    def render(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("run", style="cyan", no_wrap=True)
        for name in ("state", "env steps", "", "env steps/s", "left", "training", "evaluation"):
            table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
        counts = counted([run.state for run in self._runs])
        if len(self._runs) > MAX_ROWS:
            table.caption, table.caption_justify = Text(counts), "left"
        for run in self._runs:
            if self._live is not None and len(self._runs) > MAX_ROWS and run.state != "running":
                continue
            standing = read_standing(run.run_dir)
            rate, left = standing.env_steps_per_second, "-"
            if rate and run.state == "running":
                left = clock(max(0, run.total_env_steps - standing.env_steps) / rate)
            table.add_row(
                Text(run.name),
                Text(run.state if run.state != "failed" else f"failed ({run.exit_code})", style=STYLES[run.state]),
                f"{standing.env_steps:,}",
                f"{standing.env_steps / run.total_env_steps:.1%}",
                "-" if rate is None else f"{rate:,.0f}",
                left,
                standing.shown(standing.training),
                standing.shown(standing.evaluation),
            )
        return table

    def _draw(self, action: Any) -> None:
        if not guarded(action):
            self._live = None
