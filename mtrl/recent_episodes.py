"""The last training episodes of every task: what the log, the live table and the schedulers read.

Shapes: M tasks, W episodes of a window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtrl.types import FinishedEpisode, State

WINDOW = 10
"""Episodes per task behind a mean, as in Sharma et al. (2017)."""


class RecentEpisodes:
    """Returns and successes of up to `window` episodes per task."""

    def __init__(self, num_tasks: int, window: int = WINDOW):
        # Right-aligned, oldest first: a sum's last bits depend on the places, which a restart therefore keeps.
        self._returns = np.zeros((num_tasks, window))  # (M, W)
        self._successes = np.zeros((num_tasks, window))
        self._counts = np.zeros(num_tasks, np.int64)  # at most W

    def observe(self, episodes: Sequence[FinishedEpisode]) -> None:
        """Takes note of episodes that ended; the oldest of the same tasks are forgotten."""
        for episode in episodes:
            self._append(episode.task, episode.return_, episode.success)

    @property
    def mean_returns(self) -> np.ndarray:
        """(M,), NaN before a task's first episode."""
        return self._means(self._returns)

    @property
    def success_rates(self) -> np.ndarray:
        """(M,), NaN before a task's first episode."""
        return self._means(self._successes)

    def _means(self, values: np.ndarray) -> np.ndarray:
        return values.sum(1) / np.where(self._counts, self._counts, np.nan)

    def _append(self, task: int, return_: float, success: bool) -> None:
        for values, new in ((self._returns[task], return_), (self._successes[task], success)):
            values[:-1] = values[1:]
            values[-1] = new
        self._counts[task] = min(self._counts[task] + 1, self._returns.shape[1])

    def state(self) -> State:
        return {"returns": self._returns.copy(), "successes": self._successes.copy(), "counts": self._counts.copy()}

    def load_state(self, state: State) -> None:
        """Raises ValueError for another number of tasks or another window."""
        for name, own in (("returns", self._returns), ("successes", self._successes), ("counts", self._counts)):
            stored = np.asarray(state[name])
            if stored.shape != own.shape:
                raise ValueError(f"recent episodes: {name} have shape {stored.shape}, not {own.shape}")
            own[:] = stored
