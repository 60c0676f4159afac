"""Output for a person: the console, lines, and the success table at the end.

Nothing here can change or end a run: no random numbers, no threads, and when the terminal is gone (`mtrl train | head`)
the output stops and the run goes on. Shapes: M tasks.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mtrl.types import Score


class Evaluated(Protocol):
    """What the success table reads of an evaluation's result."""

    @property
    def suite(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def settings(self) -> Mapping[str, object]: ...
    @property
    def task_names(self) -> Sequence[str]: ...
    @property
    def successes(self) -> np.ndarray: ...  # (M, E) bool
    @property
    def returns(self) -> np.ndarray: ...  # (M, E)
    @property
    def target_quality(self) -> Mapping[str, float]: ...  # empty without targets
    @property
    def normalized(self) -> Mapping[str, np.ndarray]: ...  # (M,) each
    @property
    def score(self) -> Score: ...


class _Console(Console):
    """A console that tells of a reader that has left, where rich's own would exit."""

    def on_broken_pipe(self) -> None:
        raise  # rich calls this in its handler of BrokenPipeError


def make_console() -> Console:
    """A console on stdout: as wide as the terminal, 100 characters where there is none."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a task name must not end a run in an ASCII locale
    fixed = None if "COLUMNS" in os.environ or (sys.stdout is not None and sys.stdout.isatty()) else 100
    return _Console(width=fixed, highlight=False)


def say(text: str) -> None:
    """Prints a line, above the live table if there is one."""
    guarded(lambda: print(text, flush=True))


def success_table(result: Evaluated, title: str) -> None:
    """Prints success rate, where success is the score, and mean return per task, their means, and the protocol."""
    guarded(lambda: make_console().print(render_success(result, title)))


def render_success(result: Evaluated, title: str) -> Table:
    """The success table of an evaluation."""
    settings = ", ".join(f"{name} {value}" for name, value in result.settings.items())
    quality = ", ".join(f"{name} {value:.3f}" for name, value in result.target_quality.items())
    protocol = f"protocol {result.protocol}: {settings}"
    table = Table(
        title=Text(f"{result.suite}: {title}"),
        caption=Text(f"of the targets: {quality}\n{protocol}" if quality else protocol),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_footer=True,
        min_width=60,  # for the title
    )
    rates, returns = result.successes.mean(1), result.returns.mean(1)
    episodes = result.successes.shape[1]
    table.add_column("task", Text(f"mean of {len(rates)}"), style="cyan")
    if result.score == "success":
        table.add_column("success rate", Text(f"{rates.mean():.3f}"), justify="right")
        table.add_column("successes", Text(f"{result.successes.sum()}/{result.successes.size}"), justify="right")
    table.add_column("mean return", Text(f"{returns.mean():.1f}"), justify="right")
    for name, scores in result.normalized.items():
        table.add_column(name, Text(f"{scores.mean():.3f}, median {np.median(scores):.3f}"), justify="right")
    for task, name in enumerate(result.task_names):
        cells = [Text(name)]
        if result.score == "success":
            cells += [rate_text(rates[task]), Text(f"{result.successes[task].sum()}/{episodes}")]
        cells += [Text(f"{returns[task]:.1f}"), *(Text(f"{scores[task]:.3f}") for scores in result.normalized.values())]
        table.add_row(*cells)
    return table


def silence_stdout() -> None:
    """Sends the rest of stdout nowhere, so that neither a print nor the interpreter's last flush fails again."""
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)
    except (OSError, ValueError, AttributeError):
        sys.stdout = io.StringIO()


def guarded(action: Callable[[], object]) -> bool:
    """Runs an output action; False, and no more output, if the other end of stdout is gone."""
    try:
        action()
    except OSError:  # a broken pipe, a terminal that hung up
        silence_stdout()
        return False
    except ValueError:
        if not getattr(sys.stdout, "closed", True):
            raise
        silence_stdout()
        return False
    return True


def rate_text(rate: float) -> Text:
    """A rate in [0, 1], coloured from red to green."""
    return Text(f"{rate:.2f}", style="green" if rate >= 0.8 else "yellow" if rate >= 0.3 else "red")
