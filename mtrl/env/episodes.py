"""Which task and which variation (goal) each slot's next episode has.

The main process decides this before it sends a step, from a stream per slot, so neither the number of worker processes
nor their timing can change a run. Shapes: N slots, M tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from mtrl.seeding import load_stream_state, stream, stream_state
from mtrl.types import State, SuiteSpec

IDLE = -1
"""Task id of a slot that has no further episode to play."""


class EpisodeSource(ABC):
    """Hands out episodes: `peek` what every slot would start next, `advance` the slots that did."""

    @abstractmethod
    def peek(self) -> tuple[np.ndarray, np.ndarray]:
        """Task ids (N,) int64 (IDLE: none) and variations (N,) int64 of each slot's next episode."""

    @abstractmethod
    def advance(self, slots: np.ndarray) -> None:
        """The given slots (n,) have started the episode that `peek` named."""

    @abstractmethod
    def set_task_weights(self, weights: np.ndarray) -> None:
        """Sets the share of episodes (M,) that each task shall get from now on."""

    @abstractmethod
    def state(self) -> State: ...

    @abstractmethod
    def load_state(self, state: State) -> None: ...


class RandomEpisodes(EpisodeSource):
    """Training episodes, stratified over the slots.

    Slot s of N draws u in [0, 1) and plays the task in whose interval of the cumulated weights (s + u) / N falls: each
    task gets its share to within one slot at any time, and with equal weights and N = k M every slot keeps one task.
    Variations are drawn uniformly with replacement.
    """

    def __init__(self, spec: SuiteSpec, num_envs: int, seed: int):
        self.num_envs = num_envs
        # A bounded range for tasks with endless variations: exact as float64, and plenty.
        self._num_variations = np.array([task.num_variations or 2**48 for task in spec.tasks])
        self._streams = [stream(seed, "episodes", slot) for slot in range(num_envs)]
        self._uniform = np.stack([generator.random(2) for generator in self._streams])  # (N, 2) task, variation
        self._weights = np.zeros(0)
        self.set_task_weights(np.full(spec.num_tasks, 1 / spec.num_tasks))

    def set_task_weights(self, weights: np.ndarray) -> None:
        if np.array_equal(weights, self._weights):
            return
        if weights.shape != self._num_variations.shape or not np.all(weights >= 0) or not weights.sum() > 0:
            raise ValueError(f"task weights must be {self._num_variations.shape[0]} non-negative numbers, not all zero")
        self._weights = np.array(weights, np.float64)
        self._upper = np.cumsum(self._weights) / self._weights.sum()
        self._next = self._find_next()

    def peek(self) -> tuple[np.ndarray, np.ndarray]:
        # Asked for at every step, and another only once an episode has begun or the weights have changed.
        return self._next

    def _find_next(self) -> tuple[np.ndarray, np.ndarray]:
        position = (np.arange(self.num_envs) + self._uniform[:, 0]) / self.num_envs
        # The tolerance keeps a slot in its own interval when the cumulated weights are rounded.
        tasks = np.searchsorted(self._upper - 1e-12, position, side="right")
        tasks = np.minimum(tasks, len(self._upper) - 1)
        return tasks, (self._uniform[:, 1] * self._num_variations[tasks]).astype(np.int64)

    def advance(self, slots: np.ndarray) -> None:
        for slot in slots:
            self._uniform[slot] = self._streams[slot].random(2)
        self._next = self._find_next()

    def state(self) -> State:
        return {
            "streams": [stream_state(generator) for generator in self._streams],
            "uniform": self._uniform.copy(),
            "weights": self._weights.copy(),
        }

    def load_state(self, state: State) -> None:
        for generator, stored in zip(self._streams, state["streams"], strict=True):
            load_stream_state(generator, stored)
        self._uniform[:] = np.asarray(state["uniform"])
        self.set_task_weights(np.asarray(state["weights"]))
        self._next = self._find_next()


class ListedEpisodes(EpisodeSource):
    """Evaluation episodes: each slot plays its own list of (task, variation) once, then rests."""

    def __init__(self, lists: Sequence[Sequence[tuple[int, int]]]):
        self._lists = [list(episodes) for episodes in lists]
        self._next = np.zeros(len(lists), np.int64)

    def peek(self) -> tuple[np.ndarray, np.ndarray]:
        starts = [
            episodes[position] if position < len(episodes) else (IDLE, 0)
            for episodes, position in zip(self._lists, self._next, strict=True)
        ]
        tasks, variations = np.array(starts, np.int64).reshape(-1, 2).T
        return tasks, variations

    def advance(self, slots: np.ndarray) -> None:
        self._next[slots] += 1

    def set_task_weights(self, weights: np.ndarray) -> None:
        raise TypeError("the episodes of an evaluation are listed, not drawn")

    def state(self) -> State:
        return {"next": self._next.copy()}

    def load_state(self, state: State) -> None:
        self._next[:] = np.asarray(state["next"])
