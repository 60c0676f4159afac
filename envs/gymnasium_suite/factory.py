"""Factory of Gymnasium slots, called in a worker; light, because the main process holds and sends it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from envs.gymnasium_suite.environments import Interface, Recipe
from mtrl.registry import trust_module

if TYPE_CHECKING:
    from envs.gymnasium_suite.slot_env import GymnasiumSlot, GymnasiumStock

WORKER_MODULES = ("envs.workers.worker", "envs.gymnasium_suite.slot_env")
"""What the server that forks workers imports."""


@dataclass(kw_only=True)
class GymnasiumFactory:
    """Makes slots that share one stock of environments (per process that calls it)."""

    recipes: tuple[Recipe, ...]  # of each task
    interfaces: tuple[Interface, ...]  # of each task
    modules: tuple[str, ...]  # what has to be imported first; the command line named them
    observation_shape: tuple[int, ...]  # of the suite
    observation_dtype: str
    target_returns: tuple[float | None, ...] | None  # that make an episode a success; None: environments say so
    _stock: GymnasiumStock | None = field(default=None, init=False)

    def __call__(self) -> GymnasiumSlot:
        from envs.gymnasium_suite.slot_env import GymnasiumStock

        if self._stock is None:
            for module in self.modules:
                trust_module(module)
            self._stock = GymnasiumStock(self.recipes)
        return self.make_slot(self._stock)

    def make_slot(self, stock: GymnasiumStock) -> GymnasiumSlot:
        """A slot that plays the environments of `stock`."""
        from envs.gymnasium_suite.slot_env import GymnasiumSlot

        row = np.zeros(self.observation_shape, self.observation_dtype)
        return GymnasiumSlot(stock, self.interfaces, row, self.target_returns)
