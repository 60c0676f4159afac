"""A suite that counts: every observation says which episode it belongs to and how far that episode is.

An observation is (task, variation in two parts, step of the episode, sum of the first action component so far), so
whoever holds a stored transition can tell whether its parts belong together. Length and kind of end follow from task
and variation: terminated, truncated, or both at once. Built for checks; it is in no registry.

Shapes: N slots, M tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import gymnasium as gym
import numpy as np

from mtrl.env.episodes import IDLE, EpisodeSource
from mtrl.env.suite import Mode, Suite
from mtrl.env.vector_env import MultiTaskVectorEnv, RawStep
from mtrl.errors import BadInput
from mtrl.types import SuiteSpec, TaskSpec

EndKind = Literal["terminated", "truncated", "both"]
END_KINDS: tuple[EndKind, ...] = ("terminated", "truncated", "both")

_PART = 2**24  # whole numbers below this are exact in float32


class CountingSuite(Suite):
    """`counting` has actions in [-1, 1]^2, `counting-discrete` four actions of which odd tasks lack the last."""

    suite_names: ClassVar[Mapping[str, str]] = {
        "counting": "every observation says which episode and step it is",
        "counting-discrete": "the same with four actions",
    }

    @dataclass(frozen=True, kw_only=True)
    class Config:
        num_tasks: int = 3
        num_variations: int | None = 16  # episode starts per task; None: unlimited
        max_episode_steps: int = 7  # env steps of the longest episode

    def __init__(self, name: str, config: Config, seed: int):
        if name not in self.suite_names:
            raise BadInput(f"unknown suite {name!r}; known: {sorted(self.suite_names)}")
        self.config = config
        discrete = name == "counting-discrete"
        legal = np.ones((config.num_tasks, 4), bool)
        legal[1::2, -1] = False
        self.spec = SuiteSpec(
            name=name,
            tasks=tuple(
                TaskSpec(
                    name=f"count-{index}",
                    index=index,
                    max_episode_steps=config.max_episode_steps,
                    num_variations=config.num_variations,
                )
                for index in range(config.num_tasks)
            ),
            observation_space=gym.spaces.Box(-np.inf, np.inf, (5,), np.float32),
            action_space=gym.spaces.Discrete(4) if discrete else gym.spaces.Box(-1, 1, (2,), np.float32),
            action_mask=legal if discrete else None,
            protocol="counting",
        )

    def lengths(self, tasks: np.ndarray, variations: np.ndarray) -> np.ndarray:
        """Env steps of the episodes (n,)."""
        return 1 + (tasks + variations) % self.config.max_episode_steps

    def end_kinds(self, tasks: np.ndarray, variations: np.ndarray) -> np.ndarray:
        """Indices into `END_KINDS` (n,), by which the episodes end."""
        return (tasks + variations // self.config.max_episode_steps) % len(END_KINDS)

    def make_envs(
        self, num_envs: int, episodes: EpisodeSource, *, mode: Mode, num_workers: int, worker_timeout: float
    ) -> MultiTaskVectorEnv:
        return CountingEnvs(self, num_envs, episodes)


class CountingEnvs(MultiTaskVectorEnv):
    """All slots in this process, as arrays."""

    def __init__(self, suite: CountingSuite, num_envs: int, episodes: EpisodeSource):
        super().__init__(suite.spec, num_envs, episodes)
        self.suite = suite
        self._playing = np.full(num_envs, IDLE, np.int64)
        self._variation = np.zeros(num_envs, np.int64)
        self._step = np.zeros(num_envs, np.int64)
        self._sum = np.zeros(num_envs, np.float32)
        self._pending: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def _start(self, tasks: np.ndarray, variations: np.ndarray) -> np.ndarray:
        self._restart(np.ones(self.num_envs, bool), tasks, variations)
        return self._observe()

    def _send(self, action: np.ndarray, next_tasks: np.ndarray, next_variations: np.ndarray) -> None:
        self._pending = action, next_tasks, next_variations

    def _recv(self) -> RawStep:
        assert self._pending is not None
        (action, next_tasks, next_variations), self._pending = self._pending, None
        first = action.reshape(self.num_envs, -1)[:, 0].astype(np.float32)
        self._step += 1
        self._sum += first
        ended = self._step >= self.suite.lengths(self._playing, self._variation)
        kind = self.suite.end_kinds(self._playing, self._variation)
        final_observation = self._observe()
        reward = self._step + first
        success = (self._step == 1) & (self._variation % 2 == 0)
        self._restart(ended, next_tasks, next_variations)
        return RawStep(
            observation=self._observe(),
            reward=reward.astype(np.float32),
            terminated=ended & (kind != END_KINDS.index("truncated")),
            truncated=ended & (kind != END_KINDS.index("terminated")),
            success=success,
            final_observation=final_observation,
        )

    def _replay(self, tasks: np.ndarray, variations: np.ndarray, actions: list[np.ndarray]) -> np.ndarray:
        self._restart(np.ones(self.num_envs, bool), tasks, variations)
        for slot, played in enumerate(actions):
            for action in played:
                self._step[slot] += 1
                self._sum[slot] += np.float32(np.reshape(action, -1)[0])
        return self._observe()

    def _restart(self, which: np.ndarray, tasks: np.ndarray, variations: np.ndarray) -> None:
        self._playing[which] = tasks[which]
        self._variation[which] = variations[which]
        self._step[which] = 0
        self._sum[which] = 0

    def _observe(self) -> np.ndarray:
        high, low = np.divmod(self._variation, _PART)
        return np.stack([self._playing, high, low, self._step, self._sum], axis=1).astype(np.float32)

    def close(self) -> None:
        pass
