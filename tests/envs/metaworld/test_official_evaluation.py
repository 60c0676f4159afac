"""Our protocol and Meta-World's own evaluation function agree, for good, bad and middling agents."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import gymnasium as gym
import metaworld
import numpy as np
import pytest
import torch
from metaworld.evaluation import evaluation
from metaworld.policies import ENV_POLICY_MAP
from torch import nn

import envs
from envs.metaworld.official import OfficialAgent
from mtrl.agent import Agent
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.env.suite import find_suite
from mtrl.evaluation.evaluator import evaluate
from mtrl.optim.parameter_group import ParameterGroup
from mtrl.types import ActionStep, Metrics, SuiteSpec, TaskWeights

TASKS = ("reach-v3", "drawer-close-v3", "button-press-v3")
SEED = 5


class ScriptedAgent(Agent):
    """Meta-World's scripted policies; `skill` decides by the goal's position which of them are used."""

    def __init__(self, spec: SuiteSpec, skill: str):
        nn.Module.__init__(self)
        self.spec, self.num_tasks, self.device = spec, spec.num_tasks, torch.device("cpu")
        self.skill = skill
        self.policies = [ENV_POLICY_MAP[name]() for name in spec.task_names]

    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        return ActionStep(np.stack([self._row(row, task) for row, task in zip(observation, task_ids, strict=True)]))

    def _row(self, observation: np.ndarray, task: int) -> np.ndarray:
        # A function of the observation alone, hence equal in both evaluations.
        noise = np.sin(1000 * observation[:4].astype(np.float64))
        able = self.skill == "scripted" or (self.skill == "half-good" and observation[-3] > observation[4])
        action = self.policies[task].get_action(observation.astype(np.float64)) if able else noise
        return np.clip(action, -1, 1).astype(np.float32)

    def update(self, buffer: RolloutBuffer, task_weights: TaskWeights) -> Metrics:
        raise NotImplementedError

    def groups(self) -> Mapping[str, ParameterGroup]:
        return {}

    def streams(self) -> Mapping[str, torch.Generator]:
        return {}


def official_envs(benchmarks: list[tuple[metaworld.Benchmark, str]], goals: list[int]) -> gym.vector.SyncVectorEnv:
    """One official environment per task that plays the given goals in pseudorandom order."""
    make = []
    for benchmark, name in benchmarks:
        tasks = [task for task in benchmark.train_tasks if task.env_name == name]
        make.append(
            partial(
                metaworld._init_each_env,
                env_cls=benchmark.train_classes[name],
                tasks=[tasks[goal] for goal in goals],
                seed=SEED,
                task_select="pseudorandom",
            )
        )
    vector = gym.vector.SyncVectorEnv(make, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    vector.call("toggle_sample_tasks_on_reset", True)
    return vector


def assert_same_counts(suite_name: str, official: gym.vector.SyncVectorEnv, skill: str, episodes: int) -> None:
    family = find_suite(suite_name)
    suite = family(suite_name, family.Config(), SEED)
    agent = ScriptedAgent(suite.spec, skill)
    ours = evaluate(agent, suite, episodes, seed=SEED, num_workers=2)
    _, mean_return, success_rates, returns = evaluation(OfficialAgent(agent), official, num_episodes=episodes)
    names = suite.spec.task_names
    assert [round(success_rates[name] * episodes) for name in names] == ours.successes.sum(1).tolist()
    # The goals come in another order.
    for name, own in zip(names, ours.returns, strict=True):
        np.testing.assert_allclose(sorted(own), sorted(returns[name]), rtol=1e-6)
    assert mean_return == pytest.approx(ours.mean_returns.mean(), rel=1e-6)


@pytest.fixture(scope="module")
def benchmarks() -> list[tuple[metaworld.Benchmark, str]]:
    envs.register()
    return [(metaworld.MT1(name, seed=SEED), name) for name in TASKS]


@pytest.mark.parametrize(
    "skill", ["half-good", *(pytest.param(skill, marks=pytest.mark.slow) for skill in ("scripted", "random"))]
)
def test_success_counts_equal_the_official_ones(benchmarks: list[tuple[metaworld.Benchmark, str]], skill: str) -> None:
    # Three episodes of ours are spread over the 50 goals. The official environments are new each time: they go on with
    # their cycle of goals where the last evaluation left them.
    official = official_envs(benchmarks, [0, 16, 33])
    assert_same_counts(f"metaworld:{','.join(TASKS)}", official, skill, episodes=3)


@pytest.mark.full
@pytest.mark.parametrize("skill", ["scripted", "random", "half-good"])
def test_success_counts_equal_the_official_ones_on_all_goals_of_mt10(skill: str) -> None:
    envs.register()
    benchmark = metaworld.MT10(seed=SEED)
    official = official_envs([(benchmark, name) for name in benchmark.train_classes], list(range(50)))
    assert_same_counts("mt10", official, skill, episodes=50)
