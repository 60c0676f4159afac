"""A scheduler after T3S (Yu et al., 2023, "T3S: Improving Multi-Task Reinforcement Learning with Task-Specific Feature
Selector and Scheduler", IJCNN).

T3S chooses tasks with a probability inversely proportional to their progress (success rate) and to their learning
speed. Here

    progress_i = k_i                                 score of the last episodes as a fraction of the target
    speed_i    = (k_i - s_i) / (1 - s_i), in [0, 1]   part of the way to the target that was made lately

where s_i is a slow moving average of k_i. That form of the speed is ours: it makes a solved task the fastest and the
furthest, so that it always gets least. Not here: the masks by hypernetworks, the other half of T3S, which are an
architecture. Shapes: M tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveInt

from mtrl.scheduling.active.active_scheduler import ActiveScheduler
from mtrl.scheduling.scheduler import schedulers
from mtrl.types import State, SuiteSpec


@schedulers.register("t3s")
class T3S(ActiveScheduler):
    """1 / ((progress_i + epsilon) (speed_i + epsilon)), normalised."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ActiveScheduler.Config):
        speed_episodes: PositiveInt = 50  # of a task: time constant of the average that speed is measured from
        epsilon: Annotated[float, Field(ge=1e-3)] = 0.1  # bounds the ratio of two shares by ((1 + epsilon) / epsilon)^2

    def __init__(self, spec: SuiteSpec, config: Config, seed: int):
        super().__init__(spec, config, seed)
        self._slow = np.zeros(self.num_tasks)  # (M,) s_i

    def update_statistics(self, distances: np.ndarray, ended: np.ndarray) -> None:
        kept = (1 - 1 / self.config.speed_episodes) ** ended
        self._slow[:] = kept * self._slow + (1 - kept) * (1 - distances)

    def shares(self, distances: np.ndarray, ended: np.ndarray) -> np.ndarray:
        progress, epsilon = 1 - distances, self.config.epsilon
        way = 1 - self._slow
        # Nothing is left of the way to a target that was always reached: as fast as can be.
        speed = np.clip(np.divide(progress - self._slow, way, out=np.ones(self.num_tasks), where=way > 1e-9), 0, 1)
        raw = 1 / ((progress + epsilon) * (speed + epsilon))
        return raw / raw.sum()

    def state(self) -> State:
        return super().state() | {"slow": self._slow.copy()}

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self._slow[:] = np.asarray(state["slow"])
