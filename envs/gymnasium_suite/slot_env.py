"""One slot that plays Gymnasium environments; imported where they are stepped, in a worker."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.gymnasium_suite.environments import Environment, Interface, Recipe
from envs.workers.slots import NOBODY, SlotStep
from envs.workers.stock import Stock
from mtrl.faults import WrongResult

LARGEST_SEED = 2**31 - 1
"""Some environments take no larger ones."""


def episode_seed(variation: int) -> int:
    """The argument of `reset` by which a variation begins, 1 to LARGEST_SEED."""
    return variation % LARGEST_SEED + 1


def reported_success(info: Any) -> bool | None:
    """What a step's info says of success; None if it says nothing."""
    found = info.get("success", info.get("is_success"))
    return None if found is None else bool(found)


class GymnasiumStock(Stock[Environment]):
    """The environments of one process."""

    def __init__(self, recipes: tuple[Recipe, ...]):
        super().__init__(len(recipes))
        self.recipes = recipes

    def _make(self, task: int) -> Environment:
        return self.recipes[task].make()


class GymnasiumSlot:
    """Plays one episode at a time, of any task (`envs.workers.slots.SlotEnv`)."""

    environment: object = None
    """What faults are named after: the environment that plays, without its wrappers; or a wrapper that has raised."""

    def __init__(
        self,
        stock: GymnasiumStock,
        interfaces: tuple[Interface, ...],
        row: np.ndarray,
        target_returns: tuple[float | None, ...] | None,
    ):
        """row: zeros in shape and dtype of the suite's observation, to be written to.

        target_returns: of each task, that make an episode a success; None: the environments report successes.
        """
        self._stock = stock
        self._interfaces = interfaces
        self._row = row
        self._target_returns = target_returns
        self._task = NOBODY
        self._env: Environment | None = None

    def begin(self, task: int, variation: int) -> np.ndarray:
        """Resets the task's environment by the seed of `variation`; returns the suite's observation."""
        if self._env is None or task != self._task:
            if self._env is not None:
                self._stock.give_back(self._task, self._env)
            self._env = self.environment = None  # in case the next one cannot be made
            self._task, self._env = task, self._stock.take(task)
            self.environment = self._env.unwrapped
            self._row[...] = 0  # where the task's own observation ends
        self._return = 0.0
        try:
            observation, _ = self._env.reset(seed=episode_seed(variation))
        except BaseException as error:  # sys.exit too
            self._blame(error, self._env)
            raise
        self._interfaces[task].observation.encode(observation, self._row)
        return self._row

    def step(self, action: Any) -> SlotStep:
        """One step with the suite's action."""
        assert self._env is not None, "step before begin"
        interface = self._interfaces[self._task]
        own_action = interface.action.decode(action)
        try:
            observation, reward, terminated, truncated, info = self._env.step(own_action)
        except BaseException as error:
            self._blame(error, self._env)
            raise
        interface.observation.encode(observation, self._row)
        try:
            number = float(reward)
        except (TypeError, ValueError) as error:
            raise WrongResult(f"returned {reward!r} as the reward of step, expected a number") from error
        self._return += number
        success = self._success(info, ended=bool(terminated or truncated))
        return SlotStep(self._row, number, bool(terminated), bool(truncated), success)

    def _blame(self, error: BaseException, env: Environment) -> None:
        self.environment = self._stock.recipes[self._task].culprit(error, env)

    def _success(self, info: Any, ended: bool) -> bool:
        """As the environment reports it; or, of an episode that has ended, whether its return is the target."""
        if self._target_returns is None:
            return bool(reported_success(info))
        target = self._target_returns[self._task]
        return ended and target is not None and self._return >= target
