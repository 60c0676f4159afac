"""Everything that changes while a run trains, in one object: what a checkpoint holds is what this owns.

Shapes: N slots, M tasks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mtrl.agent import Agent
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.env.recent_episodes import RecentEpisodes
from mtrl.env.vector_env import MultiTaskVectorEnv
from mtrl.loggers.metric_means import MetricMeans
from mtrl.normalization import ReturnNormalizer
from mtrl.scheduling import TaskScheduler
from mtrl.types import State


class TrainState:
    """The parts of a running training, and its counts.

    `observation` is the one to act on next; `num_updates` counts the calls of `Agent.update` that learnt something;
    `metric_means` has their metrics since the last row of the log.
    """

    def __init__(self, agent: Agent, envs: MultiTaskVectorEnv, buffer: RolloutBuffer, scheduler: TaskScheduler):
        self.agent = agent
        self.envs = envs
        self.buffer = buffer
        self.scheduler = scheduler
        self.recent = RecentEpisodes(envs.spec.num_tasks)
        self.metric_means = MetricMeans(agent.device)
        self.observation: np.ndarray | None = None  # (N, *observation); None before the first reset
        self.env_steps = 0  # of single environments
        self.vector_steps = 0
        self.num_updates = 0
        self.in_step = False  # whether a vector step has begun and not ended

    def state(self) -> State:
        """All of it but the buffer's rows; only while nothing is in flight."""
        return {
            "agent": self.agent.state(),
            "envs": self.envs.state(),
            "buffer": self.buffer.state(),
            "scheduler": self.scheduler.state(),
            "recent": self.recent.state(),
            "metric_means": self.metric_means.state(),
            "observation": self.observation,
            "env_steps": self.env_steps,
            "vector_steps": self.vector_steps,
            "num_updates": self.num_updates,
            # For `restore`: the last bits of a matrix product depend on their number, but on a GPU.
            "torch_threads": torch.get_num_threads() if self.agent.device.type == "cpu" else None,
        }

    def load_state(self, state: State, chunks: Iterator[tuple[str, dict[str, Tensor]]]) -> bool:
        """Loads a saved state; returns whether the running episodes were restored bit for bit."""
        self.agent.load_state(state["agent"])
        self.buffer.load_state(state["buffer"], chunks)
        self.scheduler.load_state(state["scheduler"])
        self.recent.load_state(state["recent"])
        self.metric_means.load_state(state["metric_means"])
        self.env_steps = int(state["env_steps"])
        self.vector_steps = int(state["vector_steps"])
        self.num_updates = int(state["num_updates"])
        if state["observation"] is None:
            return True
        stored = np.asarray(state["observation"])
        self.observation = self.envs.load_state(state["envs"])
        exact = self.observation.tobytes() == stored.tobytes()
        if not exact:
            # The next row does not follow the newest one stored.
            self.buffer.end_running_episodes()
            for part in self.agent.modules():
                if isinstance(part, ReturnNormalizer):
                    part.end_running_episodes()
        return exact
