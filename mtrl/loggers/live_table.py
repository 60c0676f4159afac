"""The live table of a training run on a terminal or in a notebook, and plain lines elsewhere. Shapes: M tasks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mtrl.loggers.console import guarded, make_console, rate_text, say
from mtrl.loggers.metric_logger import MetricLogger
from mtrl.loggers.notebook import NotebookDisplay
from mtrl.runs.logs import EvaluationRow
from mtrl.types import Progress, Score

RECENT_EPISODES = 20
"""Training episodes per task behind the success rate and return that are shown."""

_REFRESH_SECONDS = 0.5
_RATE_SECONDS = 60.0
_LINE_SECONDS = (10.0, 60.0)
"""Between two plain lines: at first, and after a while."""
_LISTED_TASKS = 10
"""The most tasks that a plain line lists one by one."""


class LiveTable(MetricLogger):
    """Progress of a training run; a context manager.

    Rates are of training: the time that evaluations take does not count.
    """

    def __init__(
        self,
        task_names: Sequence[str],
        total_env_steps: int,
        console: Console | None = None,
        *,
        score: Score = "success",
        about: str = "",
    ):
        """score: what is shown of the episodes. about: a line that says what is trained where."""
        self._score, self._about = score, about
        self.task_names = tuple(task_names)
        self.total_env_steps = total_env_steps
        self._console = console or make_console()
        self._live: Live | NotebookDisplay | None = None
        self._successes = [deque[bool](maxlen=RECENT_EPISODES) for _ in self.task_names]
        self._returns = [deque[float](maxlen=RECENT_EPISODES) for _ in self.task_names]
        self._episodes = np.zeros(len(self.task_names), np.int64)
        self._shares: list[float] | None = None
        self._evaluated: tuple[int, list[float]] | None = None  # env steps, mean score of each task
        self._evaluating: tuple[int, int] | None = None  # episodes ended, of all
        self._evaluation_seconds = 0.0  # of those that are over
        self._evaluation_started = 0.0
        self._env_steps = 0
        self._points: deque[tuple[float, int]] = deque()  # (seconds, env steps) of the last minute
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        if self._about:
            say(self._about)
        if self._console.is_jupyter:
            self._live = NotebookDisplay()
            self._draw(self._live.start)
        elif self._console.is_terminal and not self._console.is_dumb_terminal:
            # No refreshing thread: the table is drawn in the main thread, as the run goes on.
            self._live = Live(console=self._console, auto_refresh=False, transient=False)
            self._draw(self._live.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def close(self) -> None:
        self.stop()

    def stop(self) -> None:
        """Draws the last state and leaves the terminal as it was; what is printed next stands below."""
        live, self._live = self._live, None
        if live is not None:
            self._draw(lambda: live.update(self.render()))
            self._draw(live.stop)

    def on_progress(self, progress: Progress, shares: Sequence[float]) -> None:
        """Counts the episodes that ended, and draws the table again if it is time to."""
        self._end_evaluation()
        for episode in progress.episodes:
            self._successes[episode.task].append(episode.success)
            self._returns[episode.task].append(episode.return_)
            self._episodes[episode.task] += 1
        self._env_steps = progress.env_steps
        self._shares = [float(share) for share in shares]
        now = time.monotonic()
        if self._points and now - self._shown < self._pause(now):
            return
        self._mark(now - self._evaluation_seconds)
        self._shown = now
        self._show()

    def on_evaluation_progress(self, ended: int, total: int) -> None:
        """Draws the table again if it is time to."""
        now = time.monotonic()
        if self._evaluating is None:
            self._evaluation_started = now
            if self._points:
                self._mark(now - self._evaluation_seconds)
        self._evaluating = ended, total
        if now - self._shown >= self._pause(now):
            self._shown = now
            self._show()

    def _end_evaluation(self) -> None:
        if self._evaluating is not None:
            self._evaluation_seconds += time.monotonic() - self._evaluation_started
            self._evaluating = None

    def on_evaluation(self, rows: Sequence[EvaluationRow], metrics: Mapping[str, Any]) -> None:
        """Shows the mean score of each task."""
        self._end_evaluation()
        env_steps, success = rows[0].env_steps, self._score == "success"
        self._evaluated = env_steps, [row.success_rate if success else row.mean_return for row in rows]
        if self._live is not None:
            self._show()
            return
        means = self._evaluated[1]
        tasks = ", ".join(f"{name} {self._shown_as(mean)}" for name, mean in zip(self.task_names, means, strict=True))
        detail = f"[{tasks}]"
        if len(means) > _LISTED_TASKS:
            detail = f"({self._shown_as(min(means))} to {self._shown_as(max(means))})"
        say(f"evaluation at {env_steps:,} env steps: mean {self._score} {self._mean(means)} {detail}")

    def render(self) -> RenderableType:
        """The table as it is drawn on a terminal."""
        # Lines that are not rows of the tasks: the bar, two or three of text, the header, and lines of air.
        rows = max(1, self._console.height - (8 if self._about else 7))
        blocks = [
            range(start, min(start + rows, len(self.task_names))) for start in range(0, len(self.task_names), rows)
        ]
        grid = Table.grid(padding=(0, 3))
        grid.add_row(*(self._tasks(block) for block in blocks))
        bar = Table.grid()  # alone it would not end its line
        bar.add_row(ProgressBar(total=self.total_env_steps, completed=self._env_steps, width=60))
        about = [Text(self._about, no_wrap=True, overflow="ellipsis")] if self._about else []
        return Group(*about, bar, Text(self._headline()), Text(self._second_line()), grid)

    def line(self) -> str:
        """The same in one line, for a log file."""
        recent = self._recent
        tasks = [f"{name} {self._mean(own)}" for name, own in zip(self.task_names, recent, strict=True)]
        listed = f"  [{', '.join(tasks)}]" if len(tasks) <= _LISTED_TASKS and any(recent) else ""
        return f"{self._headline()}  {self._second_line()}{listed}"

    def _show(self) -> None:
        if (live := self._live) is not None:
            self._draw(lambda: live.update(self.render(), refresh=True))
        else:
            say(self.line())

    def _draw(self, action: Callable[[], object]) -> None:
        if not guarded(action):
            self._live = None

    def _pause(self, now: float) -> float:
        """Seconds between two drawings; plain lines become rarer as a run gets long."""
        first, later = _LINE_SECONDS
        return _REFRESH_SECONDS if self._live is not None else min(later, max(first, 0.05 * (now - self._started)))

    def _mark(self, now: float) -> None:
        self._points.append((now, self._env_steps))
        while len(self._points) > 2 and now - self._points[0][0] > _RATE_SECONDS:
            self._points.popleft()

    def _steps_per_second(self) -> float:
        (begin, first), (end, last) = self._points[0], self._points[-1]
        return (last - first) / (end - begin) if end > begin else 0.0

    def _headline(self) -> str:
        share = self._env_steps / max(1, self.total_env_steps)
        text = f"{self._env_steps:,} of {self.total_env_steps:,} env steps ({share:.1%})"
        rate = self._steps_per_second() if self._points else 0.0
        if rate > 0:
            left = max(0, self.total_env_steps - self._env_steps) / rate
            text += f"  {rate:,.0f} env steps/s  {clock(left)} left"
        return f"{text}  {clock(time.monotonic() - self._started)} elapsed"

    def _second_line(self) -> str:
        recent = [float(np.mean(values)) for values in self._recent if values]
        text = f"mean {self._score} {self._mean(recent)} in training"
        if self._evaluated is not None:
            env_steps, scores = self._evaluated
            text += f"  {self._mean(scores)} in the evaluation at {env_steps:,}"
        if self._evaluating is not None:
            ended, total = self._evaluating
            text += f"  evaluating: {ended:,} of {total:,} episodes"
        return text

    @property
    def _recent(self) -> Sequence[Sequence[float]]:
        """Scores of the last training episodes, by task."""
        return self._successes if self._score == "success" else self._returns

    def _shown_as(self, score: float) -> str:
        return f"{score:.2f}" if self._score == "success" else f"{score:,.1f}"

    def _mean(self, scores: Sequence[float]) -> str:
        return self._shown_as(float(np.mean(scores))) if len(scores) else "-"

    def _tasks(self, block: range) -> Table:
        """A table of some of the tasks."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("task", style="cyan", no_wrap=True)
        success_counts = self._score == "success"
        for name in ("success", "return", "episodes") if success_counts else ("return", "episodes"):
            table.add_column(name, justify="right", no_wrap=True)
        if self._evaluated is not None:
            table.add_column("evaluation", justify="right", no_wrap=True)
        if self._shares is not None:
            table.add_column("share", justify="right", no_wrap=True)
        for task in block:
            success, returns = self._successes[task], self._returns[task]
            cells = [Text(self.task_names[task])]
            if success_counts:
                cells.append(rate_text(float(np.mean(success))) if success else Text("-"))
            cells += [Text(f"{np.mean(returns):,.1f}" if returns else "-"), Text(f"{self._episodes[task]:,}")]
            if self._evaluated is not None:
                score = self._evaluated[1][task]
                cells.append(rate_text(score) if success_counts else Text(self._shown_as(score)))
            if self._shares is not None:
                cells.append(Text(f"{self._shares[task]:.3f}"))
            table.add_row(*cells)
        return table


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, seconds = divmod(int(min(seconds, 3.6e7)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
