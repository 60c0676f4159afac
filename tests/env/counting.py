"""Plays the counting suite and audits stored transitions. Shapes: N slots, M tasks, B rows."""

from __future__ import annotations

import numpy as np
import torch

from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.env.episodes import EpisodeSource, RandomEpisodes
from mtrl.seeding import stream
from mtrl.testing.counting_suite import END_KINDS, CountingSuite
from mtrl.types import ActionStep, Batch, EnvStep, State


class NumberedEpisodes(EpisodeSource):
    """Every episode of the run has a variation that no other has; tasks are drawn."""

    def __init__(self, num_tasks: int, num_envs: int):
        self.num_tasks, self.num_envs = num_tasks, num_envs
        self.started = np.zeros(num_envs, np.int64)
        self.generator = stream(1, "numbered episodes")
        self.tasks = self.generator.integers(num_tasks, size=num_envs)

    def peek(self) -> tuple[np.ndarray, np.ndarray]:
        return self.tasks.copy(), self.started * self.num_envs + np.arange(self.num_envs)

    def advance(self, slots: np.ndarray) -> None:
        self.started[slots] += 1
        self.tasks[slots] = self.generator.integers(self.num_tasks, size=len(slots))

    def set_task_weights(self, weights: np.ndarray) -> None: ...

    def state(self) -> State:
        raise NotImplementedError

    def load_state(self, state: State) -> None:
        raise NotImplementedError


def counting_suite(name: str = "counting", **settings: int | None) -> CountingSuite:
    return CountingSuite(name, CountingSuite.Config(**settings), 1)


class Player:
    """Fills a buffer with random actions, one vector step per call."""

    def __init__(self, suite: CountingSuite, buffer: RolloutBuffer, episodes: EpisodeSource | None = None):
        num_envs = buffer.num_envs
        episodes = episodes or RandomEpisodes(suite.spec, num_envs, 1)
        self.buffer = buffer
        self.envs = suite.make_envs(num_envs, episodes, mode="train", num_workers=0, worker_timeout=1.0)
        self.observation = self.envs.reset()
        self.generator = stream(1, "actions")

    def step(self) -> EnvStep:
        # Quarters are exact in float32, and so are their sums.
        action = self.generator.integers(-4, 5, size=(self.buffer.num_envs, 2)).astype(np.float32) / 4
        step = self.envs.step(action)
        self.buffer.add(self.observation, ActionStep(action), step)
        self.observation = step.observation
        return step

    def play(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.step()


def audit(batch: Batch, suite: CountingSuite) -> None:
    """Every row is one transition of one episode: observation, action, reward, flags and true successor."""
    rows = batch.map_columns(lambda value: value.flatten(0, value.ndim - 2) if value.dtype == torch.float32 else value)
    observation = rows.observation.reshape(-1, 5).numpy()
    successor = rows.next_observation.reshape(-1, 5).numpy()
    action = rows.action.reshape(-1, 2).numpy()[:, 0]
    task, high, low, step, played = observation.T
    variation = (high * 2**24 + low).astype(np.int64)
    np.testing.assert_array_equal(batch.task_ids.flatten().numpy(), task)
    np.testing.assert_array_equal(successor, np.stack([task, high, low, step + 1, played + action], axis=1))
    np.testing.assert_array_equal(batch.reward.flatten().numpy(), step + 1 + action)
    ended = step + 1 == suite.lengths(task.astype(np.int64), variation)
    kind = suite.end_kinds(task.astype(np.int64), variation)
    terminated, truncated = batch.terminated.flatten().numpy(), batch.truncated.flatten().numpy()
    np.testing.assert_array_equal(terminated, ended & (kind != END_KINDS.index("truncated")))
    np.testing.assert_array_equal(truncated, ended & (kind != END_KINDS.index("terminated")))
