"""Meta-World's own benchmark objects and evaluation: its goals, and our agents in its evaluation."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING
from unittest import mock

import metaworld
import mujoco
import numpy as np
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from envs.metaworld.tasks import BENCHMARKS

if TYPE_CHECKING:
    from mtrl.agent import Agent


def _place_bodies(env: SawyerXYZEnv, *_: object) -> None:
    mujoco.mj_kinematics(env.model, env.data)


def official_goals(benchmark: str, seed: int) -> dict[str, np.ndarray]:
    """The goal vectors (50, G) of `metaworld.MT10(seed=seed)` and the like, by task name.

    Of `ML10-test` they are those of its test tasks.
    """
    # The vectors are drawn, and drawn again where a task rejects them, without a look at the simulation: leaving out
    # the dynamics of the 100 settling steps of each reset changes no goal and saves most of the time.
    with mock.patch.object(SawyerXYZEnv, "do_simulation", _place_bodies):
        if benchmark in BENCHMARKS:
            official = getattr(metaworld, benchmark.partition("-")[0])(seed=seed)
        else:
            official = metaworld.MT1(benchmark.removeprefix("MT1-"), seed=seed)
    of_test = benchmark.endswith("-test")
    goals: dict[str, list[np.ndarray]] = {
        name: [] for name in (official.test_classes if of_test else official.train_classes)
    }
    for task in official.test_tasks if of_test else official.train_tasks:
        goals[task.env_name].append(pickle.loads(task.data)["rand_vec"])
    return {name: np.array(vectors, np.float64) for name, vectors in goals.items()}


class OfficialAgent:
    """An agent in the form that `metaworld.evaluation` calls. Shapes: M environments, one per task in order.

    `metaworld.evaluation.evaluation(OfficialAgent(agent), envs, num_episodes=50)` gives the success counts of our
    protocol if `envs` is an official vector environment with one environment per task, in the suite's task order, and
    the pseudorandom task selection switched on (`envs.call("toggle_sample_tasks_on_reset", True)`): then each of the 50
    goals is played once. With several environments per task the official function counts short episodes too often.
    """

    def __init__(self, agent: Agent):
        self._agent = agent

    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        """Deterministic actions (M, 4) for official observations (M, 39) float64."""
        rows = observations.astype(np.float32)
        return self._agent.act(rows, np.arange(len(rows)), explore=False).action

    def reset(self, env_mask: np.ndarray) -> None:
        """Nothing to forget between episodes."""
