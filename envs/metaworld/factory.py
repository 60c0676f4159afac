"""Factory of Meta-World slots, called in a worker; light, because the main process holds and sends it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from envs.metaworld.slot_env import EnvironmentStock, MetaWorldSlot


WORKER_MODULES = ("envs.workers.worker", "envs.metaworld.preload")
"""What the server that forks workers imports."""


@dataclass(kw_only=True)
class MetaWorldFactory:
    """Makes slots that share one stock of environments (per process that calls it)."""

    task_names: tuple[str, ...]
    goals: tuple[np.ndarray, ...]  # (up to 50, G) of each task
    hides_goals: bool = False  # zeros in place of the goal in the observation
    reward_function: Literal["v1", "v2"]
    end_at_success: bool
    _stock: EnvironmentStock | None = field(default=None, init=False)

    def __call__(self) -> MetaWorldSlot:
        from envs.metaworld.slot_env import EnvironmentStock, MetaWorldSlot

        if self._stock is None:
            self._stock = EnvironmentStock(self.task_names, self.reward_function)
        return MetaWorldSlot(self._stock, self.task_names, self.goals, self.end_at_success, self.hides_goals)
