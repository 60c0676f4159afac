"""Meta-World played by EnvPool's C++ environments: faster to develop with, and another task distribution.

What differs from the official environments (EnvPool 1.2): goals and object positions are drawn anew in every episode
instead of taken from the benchmark's 50; MuJoCo is a later version, with other collisions of boxes; rewards are those
of Meta-World 3.0.0 (V2), in float32. So results of an agent trained here carry another suite name, and evaluations are
always played in the official environments. Shapes: N slots.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Any

import numpy as np

from mtrl.env.episodes import IDLE, EpisodeSource
from mtrl.env.vector_env import MultiTaskVectorEnv, RawStep
from mtrl.errors import BadInput
from mtrl.seeding import stream
from mtrl.types import State, SuiteSpec


def check_installed() -> None:
    """Raises BadInput, saying how to install it."""
    if importlib.util.find_spec("envpool") is None:
        raise BadInput("--suite.env-backend envpool needs the package envpool: pip install 'mtrl-suite[envpool]'")


def description() -> str:
    """What a result says about where its agent was trained."""
    version = importlib.metadata.version("envpool")
    return f"envpool {version}: goals drawn anew each episode, its own MuJoCo, rewards of Meta-World 3.0.0"


class EnvPoolEnvs(MultiTaskVectorEnv):
    """A slot steps a pool of one environment of its task; the pools run side by side in threads of their own.

    EnvPool resets a finished environment at the step after; here a finished slot makes that step at once, and its
    reward, which belongs to no action, is left out.
    """

    replays_exactly = False

    def __init__(self, spec: SuiteSpec, num_envs: int, episodes: EpisodeSource, seed: int):
        super().__init__(spec, num_envs, episodes)
        self._seed = seed
        self._generation = 0  # counts restarts: the goals after one are not those before it
        self._pools: dict[tuple[int, int], Any] = {}  # by slot and task, kept for when the slot plays it again
        shape = (num_envs, *spec.observation_space.shape)
        self._observation = np.zeros(shape, np.float32)
        self._final_observation = np.zeros(shape, np.float32)
        self._reward = np.zeros(num_envs, np.float32)
        self._truncated = np.zeros(num_envs, bool)
        self._success = np.zeros(num_envs, bool)

    def _start(self, tasks: np.ndarray, variations: np.ndarray) -> np.ndarray:
        self._begin_episodes(np.arange(self.num_envs), tasks)
        return self._observation

    def _send(self, action: np.ndarray, next_tasks: np.ndarray, next_variations: np.ndarray) -> None:
        self._next_tasks = next_tasks
        for slot in self.playing_slots.tolist():
            self._pool(slot, self.task_ids[slot]).send(action[slot : slot + 1])

    def _recv(self) -> RawStep:
        for slot in self.playing_slots.tolist():
            observation, reward, _, truncated, info = self._pool(slot, self.task_ids[slot]).recv()
            self._final_observation[slot] = observation[0]
            self._reward[slot] = reward[0]
            self._truncated[slot] = truncated[0]
            self._success[slot] = info["success"][0] > 0
        self._observation[:] = self._final_observation
        ended = np.flatnonzero(self._truncated & (self.task_ids != IDLE))
        self._begin_episodes(ended, self._next_tasks[ended])
        return RawStep(
            observation=self._observation,
            reward=self._reward,
            terminated=np.zeros(self.num_envs, bool),
            truncated=self._truncated,
            success=self._success,
            final_observation=self._final_observation,
        )

    def _begin_episodes(self, slots: np.ndarray, tasks: np.ndarray) -> None:
        starting = [self._pool(slot, task) for slot, task in zip(slots, tasks, strict=True) if task != IDLE]
        for pool in starting:
            pool.async_reset()
        for slot, pool in zip(slots[tasks != IDLE], starting, strict=True):
            self._observation[slot] = pool.recv()[0][0]

    def _pool(self, slot: int, task: int) -> Any:
        pool = self._pools.get((slot, task))
        if pool is None:
            pool = self._pools[slot, task] = self._make_pool(slot, task)
        return pool

    def _make_pool(self, slot: int, task: int) -> Any:
        import envpool

        name = self.spec.tasks[task].name
        return envpool.make_gymnasium(
            _envpool_name(name),
            num_envs=1,
            num_threads=1,
            seed=int(stream(self._seed, f"envpool {name}", slot, self._generation).integers(2**31)),
            partially_observable=False,
        )

    def _replay(self, tasks: np.ndarray, variations: np.ndarray, actions: list[np.ndarray]) -> np.ndarray:
        raise TypeError("EnvPool's episodes cannot be replayed")

    def state(self) -> State:
        return {**super().state(), "generation": self._generation}

    def load_state(self, state: State) -> np.ndarray:
        self._generation = int(state["generation"]) + 1
        self.close()
        return super().load_state(state)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()


def _envpool_name(task_name: str) -> str:
    """`pick-place-v3` -> `MetaWorld/PickPlace-v3`."""
    *words, version = task_name.split("-")
    return f"MetaWorld/{''.join(word.capitalize() for word in words)}-{version}"
