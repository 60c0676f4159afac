"""Reading the goals off an official benchmark object; runs in a process of its own."""

from __future__ import annotations

import pickle
from unittest import mock

import metaworld
import mujoco
import numpy as np
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from envs.metaworld.names import BENCHMARKS


def _place_bodies(env: SawyerXYZEnv, *_: object) -> None:
    mujoco.mj_kinematics(env.model, env.data)


def official_goals(benchmark: str, seed: int) -> dict[str, np.ndarray]:
    """The goal vectors (50, G) of `metaworld.MT10(seed=seed)` and the like, by task name."""
    # The vectors are drawn, and drawn again where a task rejects them, without a look at the simulation: leaving out
    # the dynamics of the 100 settling steps of each reset changes no goal and saves most of the time.
    with mock.patch.object(SawyerXYZEnv, "do_simulation", _place_bodies):
        if benchmark in BENCHMARKS:
            official = getattr(metaworld, benchmark)(seed=seed)
        else:
            official = metaworld.MT1(benchmark.removeprefix("MT1-"), seed=seed)
    goals: dict[str, list[np.ndarray]] = {name: [] for name in official.train_classes}
    for task in official.train_tasks:
        goals[task.env_name].append(pickle.loads(task.data)["rand_vec"])
    return {name: np.array(vectors, np.float64) for name, vectors in goals.items()}
