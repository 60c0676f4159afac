"""The suite of the counting slots; not imported by their workers."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from faulty_slots import LENGTHS

from mtrl.types import SuiteSpec, TaskSpec


def counting_suite(*, discrete: bool = False) -> SuiteSpec:
    """Three tasks, `count-3`, `count-5` and `count-7`, that differ in how long an episode is."""
    return SuiteSpec(
        name="counting",
        tasks=tuple(
            TaskSpec(name=f"count-{length}", index=index, max_episode_steps=length, num_variations=4)
            for index, length in enumerate(LENGTHS)
        ),
        observation_space=gym.spaces.Box(-np.inf, np.inf, (4,), np.float32),
        action_space=gym.spaces.Discrete(3) if discrete else gym.spaces.Box(-1, 1, (2,), np.float32),
        protocol="counting",
    )
