"""The last training episodes of every task: what the log and the schedulers read. Shapes: M tasks, W window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtrl.types import FinishedEpisode, State

WINDOW = 10
"""Episodes per task behind a mean, as in Sharma et al. (2017)."""


class RecentMeans:
    """Mean of the last values of every task."""

    def __init__(self, num_tasks: int, window: int = WINDOW):
        # Right-aligned, oldest first: a sum's last bits depend on the places, which a restart therefore keeps.
        self._values = np.zeros((num_tasks, window))  # (M, W)
        self._counts = np.zeros(num_tasks, np.int64)  # at most W
        self.means = np.full(num_tasks, np.nan)  # (M,), NaN before a task's first value; not to be written

    def add(self, task: int, value: float) -> None:
        """Adds a value of a task, whose oldest one is forgotten."""
        values = self._values[task]
        values[:-1] = values[1:]
        values[-1] = value
        self._counts[task] = min(self._counts[task] + 1, len(values))
        self._update(task)

    def _update(self, task: int) -> None:
        if count := int(self._counts[task]):
            self.means[task] = self._values[task].sum() / count

    def state(self) -> State:
        return {"values": self._values.copy(), "counts": self._counts.copy()}

    def load_state(self, state: State) -> None:
        """Raises ValueError for another number of tasks or another window."""
        values, counts = np.asarray(state["values"]), np.asarray(state["counts"])
        if values.shape != self._values.shape:
            raise ValueError(f"values of recent episodes have shape {values.shape}, not {self._values.shape}")
        self._values[:], self._counts[:] = values, counts
        self.means[:] = np.nan
        for task in range(len(counts)):
            self._update(task)


class RecentEpisodes:
    """Mean returns and success rates of the last episodes of every task."""

    def __init__(self, num_tasks: int, window: int = WINDOW):
        self._returns = RecentMeans(num_tasks, window)
        self._successes = RecentMeans(num_tasks, window)

    def on_episodes(self, episodes: Sequence[FinishedEpisode]) -> None:
        for episode in episodes:
            self._returns.add(episode.task, episode.return_)
            self._successes.add(episode.task, episode.success)

    @property
    def mean_returns(self) -> np.ndarray:
        """(M,), NaN before a task's first episode."""
        return self._returns.means

    @property
    def success_rates(self) -> np.ndarray:
        """(M,), NaN before a task's first episode."""
        return self._successes.means

    def state(self) -> State:
        return {"returns": self._returns.state(), "successes": self._successes.state()}

    def load_state(self, state: State) -> None:
        self._returns.load_state(state["returns"])
        self._successes.load_state(state["successes"])
