"""Environment slots shared out over the ranks of a data-parallel run.

Each rank steps every K-th slot and receives the steps of the others, so that all hold all slots. Shapes: N slots, n of
this rank, K ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mtrl.data_parallel.ranks import WORLD, all_slots, own_slots
from mtrl.env.episodes import IDLE, EpisodeSource, ListedEpisodes
from mtrl.env.vector_env import MultiTaskVectorEnv, P, RawStep, T
from mtrl.errors import MtrlError

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
        self._slots = slots = own_slots(num_envs)
        # What backends read of their running episodes: views, for this class alone keeps it.
        own.task_ids, own._variations = self.task_ids[slots], self._variations[slots]
        own._returns, own._lengths, own._successes = self._returns[slots], self._lengths[slots], self._successes[slots]
        shape, dtype = self._observations
        observation, flags = np.zeros(shape, dtype), np.zeros(num_envs, bool)
        self._like = RawStep(observation, np.zeros(num_envs, np.float32), flags, flags, flags, observation)
        self._error: MtrlError | None = None  # of `_send`

    def _start(self, tasks: np.ndarray, variations: np.ndarray) -> np.ndarray:
        return self._observed(self._own._start, tasks[self._slots], variations[self._slots])

    def _replay(self, tasks: np.ndarray, variations: np.ndarray, actions: list[np.ndarray]) -> np.ndarray:
        return self._observed(self._own._replay, tasks[self._slots], variations[self._slots], actions[self._slots])

    def _observed(self, begin: Callable[..., np.ndarray], *arguments: Any) -> np.ndarray:
        def observe() -> list[np.ndarray]:
            observation = self._call_own(begin, *arguments)
            self._own._check_array(f"observation of {begin.__name__}", observation, *self._own._observations)
            return [observation]

        return all_slots(observe, [self._like.observation])[0]

    def _call_own(self, method: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        self._own.playing_slots = np.flatnonzero(self._own.task_ids != IDLE)
        return self._own._call(method, *arguments, **named)

    def _send(self, action: np.ndarray, next_tasks: np.ndarray, next_variations: np.ndarray) -> None:
        slots = self._slots
        try:
            self._call_own(self._own._send, action[slots], next_tasks[slots], next_variations[slots])
        except MtrlError as error:
            self._error = error  # the other ranks are told when they wait for the step

    def _recv(self) -> RawStep:
        def receive() -> RawStep:
            if self._error is not None:
                raise self._error
            raw = self._call_own(self._own._recv)
            self._own._check_step(raw)
            return raw

        return RawStep(*all_slots(receive, self._like))

    def close(self) -> None:
        self._own.close()
