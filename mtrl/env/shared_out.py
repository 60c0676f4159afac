"""Environment slots shared out over the ranks of a data-parallel run.

Each rank steps every K-th slot and receives the steps of the others, so that all hold all slots. Shapes: N slots, n of
this rank, K ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mtrl.data_parallel.ranks import WORLD, agreed, all_slots, own_slots
from mtrl.env.episodes import EpisodeSource, ListedEpisodes
from mtrl.env.vector_env import MultiTaskVectorEnv, RawStep

MakeEnvs = Callable[[int, EpisodeSource], MultiTaskVectorEnv]
"""(number of slots, what they play) -> environments."""


def shared_out(make_envs: MakeEnvs, num_envs: int, episodes: EpisodeSource) -> MultiTaskVectorEnv:
    """N slots, at least as many as ranks, of which this process steps its own; without other ranks all of them."""
    if WORLD.size == 1:
        return make_envs(num_envs, episodes)
    num_own = len(range(num_envs)[own_slots(num_envs)])
    # Which episodes they play is decided for all slots here, on every rank alike.
    return SharedOutEnvs(make_envs(num_own, ListedEpisodes([()] * num_own)), num_envs, episodes)


class SharedOutEnvs(MultiTaskVectorEnv):
    """All N slots, of which `own` steps those of this rank."""

    def __init__(self, own: MultiTaskVectorEnv, num_envs: int, episodes: EpisodeSource):
        super().__init__(own.spec, num_envs, episodes)
        self.replays_exactly = own.replays_exactly
        self._own = own
        self._slots = own_slots(num_envs)

    def _start(self, tasks: np.ndarray, variations: np.ndarray) -> np.ndarray:
        return self._observed(self._own._start, tasks[self._slots], variations[self._slots])

    def _replay(self, tasks: np.ndarray, variations: np.ndarray, actions: list[np.ndarray]) -> np.ndarray:
        return self._observed(self._own._replay, tasks[self._slots], variations[self._slots], actions[self._slots])

    def _observed(self, begin: Callable[..., np.ndarray], *arguments: Any) -> np.ndarray:
        own = self._own
        with agreed():
            observation = own._call(begin, *arguments)
            own._check_array(f"observation of {begin.__name__}", observation, *own._observations)
        return all_slots([observation], self.num_envs)[0]

    def _send(self, action: np.ndarray, next_tasks: np.ndarray, next_variations: np.ndarray) -> None:
        slots = self._slots
        with agreed():
            self._own._call(self._own._send, action[slots], next_tasks[slots], next_variations[slots])

    def _recv(self) -> RawStep:
        with agreed():
            raw = self._own._call(self._own._recv)
            self._own._check_step(raw)
        return RawStep(*all_slots(list(raw), self.num_envs))

    def close(self) -> None:
        self._own.close()
