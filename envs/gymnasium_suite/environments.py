"""How the environments of a suite are made, in the main process and in workers."""

from __future__ import annotations

import traceback
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

    def culprit(self, error: BaseException, env: Environment) -> object:
        """What is to blame for an error of `env`: the wrapper, or the environment, that is innermost in its traceback.

        Gymnasium's own wrappers pass on what others do: there it is the function of the recipe in whose module the
        error arose, as in a lambda, or else the environment without its wrappers.
        """
        layer, layers = env, [env]
        while isinstance(layer, gym.Wrapper):
            layer = layer.env
            layers.append(layer)
        functions = {wrapper.partition(":")[0]: wrapper for wrapper in self.wrappers}
        found: object = None
        for frame, _ in traceback.walk_tb(error.__traceback__):
            code, module = frame.f_code, str(frame.f_globals.get("__name__"))
            first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
            if any(first is own for own in layers):
                found = None if type(first).__module__.startswith("gymnasium.wrappers.") else first
            elif found is None and module in functions:
                found = trusted_function(functions[module])
        return env.unwrapped if found is None else found


@dataclass(frozen=True)
class Interface:
    """How the suite's observations and actions are those of one task's environment."""

    observation: Observation
    action: Action
