"""One slot that plays official Meta-World environments; imported where they are stepped, in a worker.

An episode of a task is a function of its goal vector and the actions: with the goal frozen the official reset uses no
randomness and forgets what was played before, so environments are reused in any order.
"""

from __future__ import annotations

import pickle
from typing import Literal

import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.types import Task

from envs.metaworld.fast import environment_class
from envs.workers.slots import NOBODY, SlotStep
from envs.workers.stock import Stock


class EnvironmentStock(Stock[SawyerXYZEnv]):
    """The environments of one process, each a simulator of its own."""

    def __init__(self, task_names: tuple[str, ...], reward_function: Literal["v1", "v2"]):
        super().__init__(len(task_names))
        self._task_names = task_names
        self._reward_function = reward_function

    def _make(self, task: int) -> SawyerXYZEnv:
        """Takes 0.1 to 0.3 s."""
        return environment_class(self._task_names[task])(reward_function_version=self._reward_function)


class MetaWorldSlot:
    """Plays one episode at a time, of any task (`envs.workers.slots.SlotEnv`)."""

    def __init__(
        self,
        stock: EnvironmentStock,
        task_names: tuple[str, ...],
        goals: tuple[np.ndarray, ...],
        end_at_success: bool,
        hides_goals: bool,
    ):
        """`goals`: of each task the vectors (up to 50, G) that fix where objects and goal are."""
        self._stock = stock
        self._task_names = task_names
        self._goals = goals
        self._end_at_success = end_at_success
        self._hides_goals = hides_goals
        self._task = NOBODY
        self._env: SawyerXYZEnv | None = None

    def begin(self, task: int, variation: int) -> np.ndarray:
        """Resets to goal `variation` of `task`; returns the official first observation (39,) float64."""
        env = self._env_of(task)
        env.set_task(self._official_task(task, variation))
        observation, _ = env.reset()
        return observation

    def step(self, action: np.ndarray) -> SlotStep:
        """One step with an action (4,) float32. Success ends the episode in an evaluation only."""
        assert self._env is not None, "step before begin"
        observation, reward, _, truncated, info = self._env.step(action)
        success = info["success"] == 1.0
        return SlotStep(observation, reward, self._end_at_success and success, truncated, success)

    def _env_of(self, task: int) -> SawyerXYZEnv:
        if self._env is None or task != self._task:
            if self._env is not None:
                self._stock.give_back(self._task, self._env)
            self._task, self._env = task, self._stock.take(task)
        return self._env

    def _official_task(self, task: int, variation: int) -> Task:
        name = self._task_names[task]
        data = {
            "rand_vec": self._goals[task][variation],
            "env_cls": ALL_V3_ENVIRONMENTS[name],
            "partially_observable": self._hides_goals,
        }
        # The official `set_task` wants its argument pickled; it is made and read in this process.
        return Task(env_name=name, data=pickle.dumps(data))
