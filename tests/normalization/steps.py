"""Vector steps of which the rewards matter. Shapes: N slots."""

from __future__ import annotations

import numpy as np

from mtrl.types import EnvStep


def step(reward: list[float], task_ids: list[int], ended: list[bool], truncated: bool = False) -> EnvStep:
    nothing = np.zeros((len(reward), 1), np.float32)
    ends = np.array(ended)
    return EnvStep(
        task_ids=np.array(task_ids),
        observation=nothing,
        reward=np.array(reward, np.float32),
        terminated=ends & (not truncated),
        truncated=ends & truncated,
        final_observation=nothing,
        episodes=(),
    )
