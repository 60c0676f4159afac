"""How the environments of a suite are made, in the main process and in workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from envs.gymnasium_suite.names import check_registered
from envs.gymnasium_suite.spaces import Action, Observation
from mtrl.registry import trust_module, trusted_function

if TYPE_CHECKING:
    from envs.gymnasium_suite.slot_env import GymnasiumSlot, GymnasiumStock

Environment = gym.Env[Any, Any]

WORKER_MODULES = ("envs.workers.worker", "envs.gymnasium_suite.slot_env")
"""What the server that forks workers imports."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One task's environment."""

    environment: str  # Gymnasium id
    arguments: Mapping[str, Any]  # of gymnasium.make
    wrappers: tuple[str, ...]  # MODULE:FUNCTION, from the inside out

    def make(self, render_mode: str | None = None) -> Environment:
        """A new environment. Raises BadInput where it is not registered, and what its own code raises."""
        check_registered(self.environment)
        arguments = dict(self.arguments) if render_mode is None else {**self.arguments, "render_mode": render_mode}
        env = gym.make(self.environment, disable_env_checker=True, **arguments)
        for wrapper in self.wrappers:
            env = trusted_function(wrapper)(env)
        return env


@dataclass(frozen=True)
class Interface:
    """How the suite's observations and actions are those of one task's environment."""

    observation: Observation
    action: Action


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
        from envs.gymnasium_suite.slot_env import GymnasiumSlot, GymnasiumStock

        if self._stock is None:
            for module in self.modules:
                trust_module(module)
            self._stock = GymnasiumStock(self.recipes)
        return GymnasiumSlot(self, self._stock)
