"""What only a look at an environment tells: its spaces, whether it reports successes, whether episodes repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from envs.gymnasium_suite.environments import Interface, Recipe
from envs.gymnasium_suite.slot_env import reported_success
from envs.gymnasium_suite.spaces import UnplayableSpace, action_of, observation_of
from mtrl.errors import BadInput, MtrlError
from mtrl.faults import describe_fault
from mtrl.seeding import stream

PROBE_STEPS = 50
"""Env steps that are compared."""


@dataclass(frozen=True)
class Look:
    """What one look at a task's environment found."""

    interface: Interface
    max_episode_steps: int | None  # as registered, or as an argument says
    target_return: float | None  # the registered reward threshold
    module: str  # where its class is defined
    reports_success: bool


def look_at(task: str, recipe: Recipe) -> Look:
    """Makes the environment of a task, resets it and takes one step. Raises BadInput for one that cannot be played."""
    try:
        env = recipe.make()
    except MtrlError:
        raise
    except Exception as error:  # a package is missing, an argument is wrong, ...
        raise BadInput(f"task {task!r} cannot be made: {type(error).__name__}: {error}") from error
    try:
        interface = Interface(observation_of(env.observation_space), action_of(env.action_space))
    except UnplayableSpace as error:
        raise BadInput(f"task {task!r} has {error}") from error
    try:
        env.reset(seed=1)
        *_, info = env.step(_random_actions(env.action_space, 1)[0])
        found = Look(
            interface=interface,
            max_episode_steps=None if env.spec is None else env.spec.max_episode_steps,
            target_return=None if env.spec is None else env.spec.reward_threshold,
            module=type(env.unwrapped).__module__,
            reports_success=reported_success(info) is not None,
        )
        env.close()
    except Exception as error:
        fault = describe_fault(error, recipe.culprit(error, env))
        raise BadInput(f"task {task!r} cannot be played: {fault}") from error
    return found


def repeats_exactly(recipe: Recipe) -> bool:
    """Whether an episode is the same, bit for bit, in a new environment and in one that has played before."""
    try:
        new, used = recipe.make(), recipe.make()
        if new.spec is not None and new.spec.nondeterministic:
            return False
        actions = _random_actions(new.action_space, PROBE_STEPS)
        _play(used, 2, actions[::-1])
        same = _play(new, 1, actions) == _play(used, 1, actions)
        new.close()
        used.close()
    except Exception:  # the run will meet the fault too, and say in which slot
        return False
    return same


def _play(env: gym.Env[Any, Any], seed: int, actions: list[Any]) -> list[bytes]:
    """All that an episode gives, as bytes: it ends with the actions at the latest."""
    observation, _ = env.reset(seed=seed)
    played = [_bytes(env, observation)]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        played.append(_bytes(env, observation) + np.array([reward, terminated, truncated], np.float64).tobytes())
        if terminated or truncated:
            break
    return played


def _bytes(env: gym.Env[Any, Any], observation: Any) -> bytes:
    return np.asarray(gym.spaces.flatten(env.observation_space, observation)).tobytes()


def _random_actions(space: gym.Space[Any], number: int) -> list[Any]:
    """Actions of a bounded space, the same ones each time."""
    generator = stream(1, "probe actions")
    if isinstance(space, gym.spaces.Discrete):
        return [space.start + action for action in generator.integers(space.n, size=number)]
    assert isinstance(space, gym.spaces.Box)
    return list(generator.uniform(space.low, space.high, (number, *space.shape)).astype(space.dtype))
