"""gymnasium's vector environments for stable-baselines3's agents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv


class GymnasiumVecEnv(VecEnv):
    """A same-step gymnasium vector environment as stable-baselines3 wants it, and no more than its agents ask for."""

    def __init__(self, environments: Any):
        self.environments = environments
        space = environments.single_observation_space
        # float32, which its buffers and networks have.
        observation_space = gym.spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32))
        super().__init__(environments.num_envs, observation_space, environments.single_action_space)

    def reset(self) -> np.ndarray:
        return self.environments.reset()[0].astype(np.float32)

    def step_async(self, actions: np.ndarray) -> None:
        self.environments.step_async(actions)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observation, reward, terminated, truncated, info = self.environments.step_wait()
        ended = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for slot in np.flatnonzero(ended):
            infos[slot]["terminal_observation"] = info["final_obs"][slot].astype(np.float32)
            infos[slot]["TimeLimit.truncated"] = bool(truncated[slot] and not terminated[slot])
        return observation.astype(np.float32), reward.astype(np.float32), ended, infos

    def close(self) -> None:
        self.environments.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return self.num_envs * [None]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> Sequence[bool]:
        return self.num_envs * [False]
