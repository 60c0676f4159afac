"""stable-baselines3 interop: our suites as its `VecEnv`, and our agents as its policies.

Both speak the same observations: a suite's own with the one-hot task appended, or without it. Only this module imports
stable-baselines3. Shapes: N slots, M tasks, D observation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

import envs
from mtrl.agent import Agent
from mtrl.config.validation import validated
from mtrl.env.episodes import IDLE, RandomEpisodes
from mtrl.env.suite import Mode, find_suite
from mtrl.env.vector_env import MultiTaskVectorEnv
from mtrl.types import FinishedEpisode, SuiteSpec

TaskInput = Literal["one-hot", "none"]
Indices = None | int | Sequence[int]


def make_sb3_env(
    suite: str,
    num_envs: int | None = None,
    *,
    seed: int = 1,
    num_workers: int = 0,
    task_input: TaskInput = "one-hot",
    mode: Mode = "train",
    config: Mapping[str, Any] | None = None,
    worker_timeout: float = 60.0,
) -> SB3VecEnv:
    """`num_envs` slots (default: one per task) of a suite by name, ready for `SAC("MlpPolicy", ...)`.

    `config` are settings of the suite's class, for instance `{"reward_function": "v1"}`. Raises BadInput for a suite
    or setting that is not known.
    """
    envs.register()
    cls = find_suite(suite)
    played = cls(suite, validated(cls.Config, config or {}, "suite."), seed)
    slots = num_envs or played.spec.num_tasks
    episodes = RandomEpisodes(played.spec, slots, seed)
    return SB3VecEnv(
        played.make_envs(slots, episodes, mode=mode, num_workers=num_workers, worker_timeout=worker_timeout), task_input
    )


class SB3VecEnv(VecEnv):
    """N slots of a suite, the task appended to the observation as a one-hot vector unless `task_input` is "none".

    Every `info` has `task` and `task_id` of the transition. At the end of an episode it has `is_success` (at any step),
    `episode` as `Monitor` writes it, `TimeLimit.truncated`, and `terminal_observation`, whose one-hot part is the task
    that ended; the slot may go on with another. `reset_infos` has the task of each slot.
    """

    def __init__(self, environments: MultiTaskVectorEnv, task_input: TaskInput = "one-hot"):
        """Raises ValueError for a one-hot task on observations that are not vectors."""
        spec = environments.spec
        if task_input == "one-hot" and len(spec.observation_space.shape) != 1:
            raise ValueError(
                f"suite {spec.name!r} has observations of shape {spec.observation_space.shape}; "
                "the one-hot task can only be appended to vectors: use task_input='none'"
            )
        self.environments = environments
        self.task_input = task_input
        self._task_rows = np.eye(spec.num_tasks, dtype=np.float32)
        self._started = time.monotonic()
        super().__init__(environments.num_envs, _observation_space(spec, task_input), spec.action_space)

    def reset(self) -> np.ndarray:
        """First observations (N, D + M), of new episodes drawn from the seed given to `seed`, if any."""
        if any(self._options):
            raise ValueError(f"environments of suite {self.environments.spec.name!r} take no reset options")
        if self._seeds[0] is not None:
            self.environments.episodes = RandomEpisodes(self.environments.spec, self.num_envs, self._seeds[0])
        self._reset_seeds()
        observation = self._with_task(self.environments.reset(), self.environments.task_ids)
        self.reset_infos = [self._task_info(int(task)) for task in self.environments.task_ids]
        return observation

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """The next `reset` draws new episodes, tasks equally often, from streams of `seed`; None changes nothing."""
        self._seeds = [seed] * self.num_envs
        return self._seeds

    def step_async(self, actions: np.ndarray) -> None:
        self.environments.send(actions)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Observations (N, D + M), rewards (N,) float32, ends of episodes (N,) bool, infos."""
        step = self.environments.recv()
        infos = [self._task_info(int(task)) for task in step.task_ids]
        ended = step.terminated | step.truncated
        if ended.any():
            final = self._with_task(step.final_observation, step.task_ids)
            for episode in step.episodes:
                infos[episode.slot] |= self._end_info(episode, final[episode.slot])
            for slot in np.flatnonzero(ended):
                infos[slot]["TimeLimit.truncated"] = bool(step.truncated[slot] and not step.terminated[slot])
                self.reset_infos[slot] = self._task_info(int(self.environments.task_ids[slot]))
        return self._with_task(step.observation, self.environments.task_ids), step.reward, ended, infos

    def close(self) -> None:
        self.environments.close()

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """`task` and `task_id` are those of each slot now; the rest are attributes of the one vector environment."""
        slots = list(self._get_indices(indices))
        if attr_name == "render_mode":
            return [None for _ in slots]
        if attr_name in ("task", "task_id"):
            return [self._task_info(int(self.environments.task_ids[slot]))[attr_name] for slot in slots]
        return [getattr(self.environments, attr_name) for _ in slots]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Sets an attribute of the vector environment. Raises ValueError for some of the slots only."""
        self._refuse_some(indices)
        setattr(self.environments, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of the vector environment once and repeats the answer. Raises ValueError for some slots."""
        self._refuse_some(indices)
        return [getattr(self.environments, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type, indices: Indices = None) -> list[bool]:
        """True for `Monitor` alone: `info["episode"]` is the true return and length, as if one had written it."""
        return [issubclass(wrapper_class, Monitor) for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The environments render nothing."""
        return [None] * self.num_envs

    def _refuse_some(self, indices: Indices) -> None:
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ValueError(f"the {self.num_envs} slots are one vector environment, of which {indices} names a part")

    def _with_task(self, observation: np.ndarray, task_ids: np.ndarray) -> np.ndarray:
        if (task_ids == IDLE).any():
            raise ValueError("a slot has no further episode to play; stable-baselines3 needs endless ones")
        if self.task_input == "none":
            return observation.astype(self.observation_space.dtype, copy=False)
        return np.concatenate([observation, self._task_rows[task_ids]], axis=1, dtype=np.float32)

    def _task_info(self, task: int) -> dict[str, Any]:
        return {"task": self.environments.spec.tasks[task].name, "task_id": task}

    def _end_info(self, episode: FinishedEpisode, final: np.ndarray) -> dict[str, Any]:
        seconds = round(time.monotonic() - self._started, 6)
        return {
            "terminal_observation": final,
            "is_success": episode.success,
            "episode": {"r": episode.return_, "l": episode.length, "t": seconds},
        }


def _observation_space(spec: SuiteSpec, task_input: TaskInput) -> gym.spaces.Box:
    """Vectors are float32, which stable-baselines3's buffers keep; images stay what they are."""
    space = spec.observation_space
    if len(space.shape) != 1:
        return space
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    if task_input == "one-hot":
        low = np.concatenate([low, np.zeros(spec.num_tasks, np.float32)])
        high = np.concatenate([high, np.ones(spec.num_tasks, np.float32)])
    return gym.spaces.Box(low, high, dtype=np.float32)


class SB3Policy:
    """An agent of ours that answers stable-baselines3's `predict`."""

    def __init__(self, agent: Agent):
        self.agent = agent

    def predict(
        self,
        observation: np.ndarray,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions (N, A) or (N,) for observations (N, D + M) of `SB3VecEnv`, or one action for one; state is passed on.

        Without `deterministic` the agent explores, which moves its exploration stream and warm-up count on. Raises
        ValueError where the last M entries are no one-hot task (a suite of one task may leave it out).
        """
        single = observation.ndim == len(self.agent.spec.observation_space.shape)
        features, task_ids = self._split(observation[None] if single else observation)
        training = self.agent.training
        self.agent.eval()
        try:
            action = self.agent.act(features, task_ids, explore=not deterministic).action
        finally:
            self.agent.train(training)
        return (action[0] if single else action), state

    def _split(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The suite's own observations, and which task each belongs to (N,)."""
        spec = self.agent.spec
        own = spec.observation_space
        if spec.num_tasks == 1 and observation.shape[1:] == own.shape:
            return observation, np.zeros(len(observation), np.int64)
        if len(own.shape) != 1 or observation.shape[1:] != (own.shape[0] + spec.num_tasks,):
            raise ValueError(
                f"observations have shape {observation.shape}; suite {spec.name!r} has {own.shape} and "
                f"{spec.num_tasks} tasks, whose one-hot vector must follow"
            )
        features, task = np.split(observation, own.shape, axis=1)
        if not (np.isin(task, (0, 1)).all() and (task.sum(axis=1) == 1).all()):
            raise ValueError(f"the last {spec.num_tasks} entries of an observation must be a one-hot task")
        return np.ascontiguousarray(features, own.dtype), task.argmax(axis=1)


def as_sb3_policy(agent: Agent) -> SB3Policy:
    """`agent` for stable-baselines3's `evaluate_policy` and whatever else calls `predict`."""
    return SB3Policy(agent)
