"""Small environments of every kind, registered when this module is imported, and wrappers for them."""

from __future__ import annotations

import itertools
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import register
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text

OBSERVATIONS: dict[str, gym.Space[Any]] = {
    "vector": Box(-1, 1, (3,), np.float64),
    "matrix": Box(-1, 1, (2, 2), np.float32),
    "number": Discrete(3),
    "dict": Dict({"place": Box(-1, 1, (2,), np.float64), "room": Discrete(3)}),
    "text": Dict({"place": Box(-1, 1, (2,), np.float64), "note": Text(5)}),
    "custom": Dict({"place": Box(-1, 1, (2,), np.float64), "note": gym.Space()}),
    "image": Box(0, 255, (40, 48, 3), np.uint8),
    "channels first": Box(0, 255, (3, 40, 48), np.uint8),
    "grey": Box(0, 255, (40, 48), np.uint8),
    "large image": Box(0, 255, (64, 64, 3), np.uint8),
    "codes": Box(0, 255, (7, 7, 3), np.uint8),
}
ACTIONS: dict[str, gym.Space[Any]] = {
    "two": Discrete(2),
    "from one": Discrete(3, start=1),
    "box": Box(np.array([0, -4], np.float32), np.array([2, 4], np.float32)),
    "unit": Box(-1, 1, (3,), np.float64),
    "endless": Box(-np.inf, np.inf, (2,), np.float32),
    "whole": Box(0, 4, (2,), np.int64),
    "several": MultiDiscrete([2, 3]),
}


class Toy(gym.Env[Any, Any]):
    """Random observations; every reward is 1, and the last action is in the info. A fault may come at a step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - as gymnasium has it

    def __init__(
        self,
        observation: str = "vector",
        action: str = "two",
        success: str | None = None,
        fault: str = "",
        fault_step: int = 3,
        ends_at: int | None = None,
        remembers: bool = False,
        render_mode: str | None = None,
        reward: float = 1.0,
    ):
        self.observation_space, self.action_space = OBSERVATIONS[observation], ACTIONS[action]
        self.success, self.fault, self.fault_step, self.ends_at = success, fault, fault_step, ends_at
        self.remembers, self.render_mode, self.reward = remembers, render_mode, reward
        self.resets = 0
        self.played: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_number = 0
        self.resets += 1
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.played.append(action)
        self.step_number += 1
        observation, reward, info = self._observe(), self.reward, {}
        if self.success is not None:
            info[self.success] = np.float32(self.step_number == 2)
        if self.step_number == self.fault_step:
            if self.fault == "raises":
                raise LookupError("the drawer is stuck")
            if self.fault == "shape":
                observation = np.zeros(7)
            if self.fault == "not a number":
                observation = np.full_like(observation, np.nan)
            if self.fault == "reward":
                reward = None  # type: ignore[assignment]
            if self.fault == "endless reward":
                reward = float("inf")
            if self.fault == "few":
                return observation, reward  # type: ignore[return-value]
            if self.fault == "hangs":
                time.sleep(60)
        return observation, reward, self.step_number == self.ends_at, False, info

    def render(self) -> Any:
        return np.full((8, 8, 3), self.step_number, np.uint8)

    def _observe(self) -> Any:
        space = self.observation_space
        if isinstance(space, Dict):
            return {"place": self.np_random.uniform(-1, 1, 2), "room": int(self.np_random.integers(3))}
        if isinstance(space, Discrete):
            return int(self.np_random.integers(3))
        assert isinstance(space, Box)
        if space.dtype == np.uint8:
            return self.np_random.integers(256, size=space.shape, dtype=np.uint8)
        observation = self.np_random.uniform(-1, 1, space.shape).astype(space.dtype)
        return observation + self.resets if self.remembers else observation


_numbers = itertools.count()


def register_toy(limit: int | None = 5, **arguments: Any) -> str:
    """A new id. Workers do not know it: for environments of this process."""
    name = f"Toy{next(_numbers)}-v0"
    register(name, entry_point=Toy, kwargs=arguments, max_episode_steps=limit)
    return name


def half(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Rewards of one half."""
    return gym.wrappers.TransformReward(env, lambda reward: reward / 2)


def small(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return gym.wrappers.ResizeObservation(env, (40, 48))


class Jammed(gym.Wrapper[Any, Any, Any, Any]):
    """Breaks at the second step of an episode."""

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return super().reset(**arguments)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        return (*super().step(action)[:4], _info(self.steps))


def _info(steps: int) -> dict[str, Any]:
    if steps == 2:
        raise LookupError("the wrapper is stuck")
    return {}


def jammed(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return gym.wrappers.TimeLimit(Jammed(env), 5)


def spoilt(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    rewards = iter([1.0])
    return gym.wrappers.TransformReward(env, lambda reward: next(rewards))


not_a_function = 3

NAMES: dict[str, dict[str, Any]] = {
    "ToyTwo-v0": {},
    "ToyThree-v0": {"observation": "dict", "action": "from one"},
    "ToyBox-v0": {"action": "box"},
    "ToyUnit-v0": {"observation": "matrix", "action": "unit"},
    "ToyFaulty-v0": {"fault": "raises"},
}
for _name, _arguments in NAMES.items():
    register(_name, entry_point=Toy, kwargs=_arguments, max_episode_steps=5)
