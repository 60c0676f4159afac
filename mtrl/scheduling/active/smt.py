"""Hard tasks first, after scheduled multi-task training (SMT; Cho et al., 2024, "Hard Tasks First: Multi-Task
Reinforcement Learning Through Task Scheduling", ICML).

A few tasks are trained at a time, with equal shares. A task leaves them

- when its score reaches `solved_score` times its target, or
- when it has played `turn_episodes` episodes without that. Its turn is over, and it waits.

A free place goes to the waiting task with the fewest turns, and among those to the hardest one: the one with the lowest
score relative to its target. So every unsolved task is reopened after all others have had a turn, and a solved task
whose score falls below the bound waits again. Once all tasks are solved, all get the same share.

Left out of the paper: the periodic resets of network parameters, since a scheduler owns no networks; and its two stages
with budgets of env steps that are fractions of the whole run, which a scheduler does not know: turns of a fixed length
take their place, and reopening that of the second stage, which trains what the first gave up. Shapes: M tasks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveInt

from mtrl.scheduling.active.active_scheduler import ActiveScheduler
from mtrl.scheduling.scheduler import schedulers
from mtrl.types import State, SuiteSpec


@schedulers.register("smt")
class SMT(ActiveScheduler):
    """Equal shares for the few hardest tasks that are not solved."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ActiveScheduler.Config):
        trained_fraction: Annotated[float, Field(gt=0, le=1)] = 0.3  # of the tasks, trained at a time; rounded up
        solved_score: Annotated[float, Field(gt=0, le=1)] = 0.9  # of the target, from which on a task counts as solved
        turn_episodes: PositiveInt = 200  # of a task, after which its place goes to another one

    def __init__(self, spec: SuiteSpec, config: Config, seed: int):
        super().__init__(spec, config, seed)
        self._places = math.ceil(config.trained_fraction * self.num_tasks)
        self._trained = np.zeros(self.num_tasks, np.bool_)
        self._turn_episodes = np.zeros(self.num_tasks, np.int64)  # (M,) in the present turn
        self._turns = np.zeros(self.num_tasks, np.int64)  # (M,) that ended without success

    def shares(self, distances: np.ndarray, ended: np.ndarray) -> np.ndarray:
        solved = 1 - distances >= self.config.solved_score
        self._turn_episodes += ended
        over = self._trained & ~solved & (self._turn_episodes >= self.config.turn_episodes)
        self._turns += over
        self._trained &= ~(solved | over)
        waiting = np.flatnonzero(~(solved | self._trained))
        order = np.lexsort((-distances[waiting], self._turns[waiting]))  # by turns, then by distance
        entering = waiting[order][: self._places - self._trained.sum()]
        self._trained[entering] = True
        self._turn_episodes[entering] = 0
        trained = self._trained if self._trained.any() else np.ones(self.num_tasks, np.bool_)
        return trained / trained.sum()

    def state(self) -> State:
        return super().state() | {
            "trained": self._trained.copy(),
            "turn_episodes": self._turn_episodes.copy(),
            "turns": self._turns.copy(),
        }

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self._trained[:] = np.asarray(state["trained"])
        self._turn_episodes[:] = np.asarray(state["turn_episodes"])
        self._turns[:] = np.asarray(state["turns"])
