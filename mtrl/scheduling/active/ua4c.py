"""A bandit over the tasks (UA4C; Sharma et al., 2017, arXiv:1702.06053): discounted, tuned UCB, after Kocsis and
Szepesvari (2006), "Discounted UCB".

An arm is a task, a pull one of its episodes, and the reward its distance m_i from the target after that episode. All
statistics are multiplied by the discount for every episode that ends, so that old ones are forgotten. The index of a
task is

    mean_i + exploration sqrt(max(mean_i (1 - mean_i), min_variance) log(n) / n_i)

with discounted counts n_i of sum n; mean_i (1 - mean_i) bounds the variance of a reward in [0, 1].

The paper picks one task, plays it and sees its reward before it picks the next. Here many slots play at once, and a
one-hot weight vector would put all of them on one task. So a decision is the next `picks` picks: after each, n_i of the
picked task grows by one as if its mean reward had come (n stays), and the share of a task is its fraction of the picks.
Since an index only falls with its own n_i, these are the largest entries of a table, and nothing is drawn at random.
Episodes that end in the same vector step count as simultaneous. Shapes: M tasks, P picks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from mtrl.scheduling.active.active_scheduler import ActiveScheduler
from mtrl.scheduling.scheduler import schedulers
from mtrl.types import State, SuiteSpec

_FEW = 1e-9
"""Discounted episodes of a task that has none left: it is picked first."""


@schedulers.register("ua4c")
class UA4C(ActiveScheduler):
    """Discounted, tuned UCB over the tasks; shares are fractions of its next picks."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ActiveScheduler.Config):
        discount: Annotated[float, Field(gt=0, lt=1)] = 0.99  # per episode of any task; remembers 1 / (1 - discount)
        exploration: NonNegativeFloat = 1.0  # factor of the confidence bound
        min_variance: PositiveFloat = 0.002  # floor of the variance in the bound
        picks: PositiveInt = 16  # episodes to come that a decision looks ahead; shares are multiples of 1 / picks

    def __init__(self, spec: SuiteSpec, config: Config, seed: int):
        super().__init__(spec, config, seed)
        self._counts = np.zeros(self.num_tasks)  # (M,) n_i, discounted
        self._rewards = np.zeros(self.num_tasks)  # (M,) discounted sums of m_i
        self._ahead = np.arange(config.picks)

    def update_statistics(self, distances: np.ndarray, ended: np.ndarray) -> None:
        forgotten = self.config.discount ** int(ended.sum())
        self._counts *= forgotten
        self._counts += ended
        self._rewards *= forgotten
        self._rewards += ended * distances

    def shares(self, distances: np.ndarray, ended: np.ndarray) -> np.ndarray:
        config, picks = self.config, self.config.picks
        counts = np.maximum(self._counts, _FEW)
        means = self._rewards / counts
        variances = np.maximum(means * (1 - means), config.min_variance)
        bounds = config.exploration * np.sqrt(variances * math.log(max(1.0, float(counts.sum()))))
        indices = means[:, None] + bounds[:, None] / np.sqrt(counts[:, None] + self._ahead)  # (M, P)
        picked = np.argpartition(indices.ravel(), -picks)[-picks:] // picks
        return np.bincount(picked, minlength=self.num_tasks) / picks

    def state(self) -> State:
        return super().state() | {"counts": self._counts.copy(), "rewards": self._rewards.copy()}

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self._counts[:] = np.asarray(state["counts"])
        self._rewards[:] = np.asarray(state["rewards"])
