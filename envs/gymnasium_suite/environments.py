"""How the environments of a suite are made, in the main process and in workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from envs.gymnasium_suite.names import check_registered
from envs.gymnasium_suite.spaces import Action, Observation
from mtrl.registry import trusted_function

Environment = gym.Env[Any, Any]


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
