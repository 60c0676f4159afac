"""What the active schedulers share: how far each task is from its target decides what it gets (Sharma et al., 2017,
arXiv:1702.06053).

m_i = 1 - a_i / b_i: a_i is the mean score of a task's last episodes, b_i its target, their ratio clipped to [0, 1]
(`mtrl.env.target_quality`). All tasks count alike at first, and afterwards every task keeps a small share, so that it
goes on being measured. Shapes: M tasks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from mtrl.env.recent_episodes import WINDOW, RecentMeans
from mtrl.env.target_quality import solved_fractions
from mtrl.errors import BadInput
from mtrl.scheduling.scheduler import TaskScheduler
from mtrl.types import FinishedEpisode, State, SuiteSpec


class ActiveScheduler(TaskScheduler):
    """Shares that follow from how far each task is from its target; a subclass says how: `shares`."""

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskScheduler.Config):
        window: PositiveInt = WINDOW  # episodes of a task behind its mean score
        uniform_episodes: NonNegativeInt = 10  # of every task, until which all get the same share
        min_share: Annotated[float, Field(ge=0, le=1)] = 0.1  # that every task keeps, as a fraction of a uniform one

    def __init__(self, spec: SuiteSpec, config: Config, seed: int):
        """Raises BadInput for a suite without targets."""
        super().__init__(spec, config, seed)
        self._spec = spec
        self._targets = _targets(spec)
        self._recent = RecentMeans(spec.num_tasks, config.window)  # of scores
        self._played = np.zeros(spec.num_tasks, np.int64)  # (M,) episodes since the start of the run
        self._weights = np.full(spec.num_tasks, 1 / spec.num_tasks)

    def on_episodes(self, episodes: Sequence[FinishedEpisode]) -> None:
        if not episodes:
            return
        ended = np.zeros(self.num_tasks, np.int64)
        for episode in episodes:
            self._recent.add(episode.task, self._spec.score_of(episode))
            ended[episode.task] += 1
        self._played += ended
        distances = 1 - solved_fractions(self._recent.means, self._targets)
        self.update_statistics(distances, ended)
        if self._played.min() >= self.config.uniform_episodes:
            kept = self.config.min_share
            self._weights = (1 - kept) * self.shares(distances, ended) + kept / self.num_tasks

    def update_statistics(self, distances: np.ndarray, ended: np.ndarray) -> None:
        """Told of every observation, in the uniform phase too; arguments as of `shares`."""

    @abstractmethod
    def shares(self, distances: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Shares (M,), summing to one, of the episodes to come.

        distances: m_i (M,) in [0, 1], 1 for a task without an episode yet. ended: how many episodes of each task have
        just ended (M,) int64.
        """

    def weights(self) -> np.ndarray:
        return self._weights

    def state(self) -> State:
        return {"recent": self._recent.state(), "played": self._played.copy(), "weights": self._weights.copy()}

    def load_state(self, state: State) -> None:
        self._recent.load_state(state["recent"])
        self._played[:] = np.asarray(state["played"])
        self._weights = np.array(state["weights"], np.float64)


def _targets(spec: SuiteSpec) -> np.ndarray:
    if spec.target_scores is None:
        without = [task.name for task in spec.tasks if task.target_return is None or task.target_return <= 0]
        raise BadInput(
            f"this scheduler needs a positive target return for every task; suite {spec.name!r} has none for "
            f"{', '.join(without[:3])}{' and others' if len(without) > 3 else ''}; use --scheduler uniform or fixed"
        )
    return spec.target_scores
