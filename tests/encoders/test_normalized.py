"""Observations shifted and scaled by what was seen. Shapes: N slots, D observation."""

from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.ppo import PPO
from agents.sac import SAC
from mtrl.encoders.normalized import Normalized
from mtrl.testing.small_runs import make_agent
from mtrl.types import EnvStep
from tests.env.counting import counting_suite

SPACE = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)


def step(observations: list[list[float]]) -> EnvStep:
    rows = len(observations)
    return EnvStep(
        task_ids=np.zeros(rows, np.int64),
        observation=np.array(observations, np.float32),
        reward=np.zeros(rows, np.float32),
        terminated=np.zeros(rows, bool),
        truncated=np.zeros(rows, bool),
        final_observation=np.array(observations, np.float32),
        episodes=(),
    )


def test_after_a_refresh_what_was_seen_has_mean_0_and_deviation_1() -> None:
    encoder, seen = Normalized(SPACE, Normalized.Config()), np.random.default_rng(0).normal((3, -4), (2, 0.5), (30, 2))
    for start in range(0, 30, 5):
        encoder.on_env_step(step(seen[start : start + 5].tolist()))
    observations = torch.from_numpy(seen).float()
    torch.testing.assert_close(encoder(observations), observations)  # what is in use changes when the agent says so
    encoder.refresh()
    expected = (seen - seen.mean(0)) / seen.std(0)
    np.testing.assert_allclose(encoder(observations).numpy(), expected, atol=1e-5)


def test_far_observations_are_clipped_and_constant_or_broken_ones_do_no_harm() -> None:
    encoder = Normalized(SPACE, Normalized.Config(clip=3.0))
    encoder.on_env_step(step([[0.0, 5.0], [2.0, 5.0], [float("nan"), 5.0]]))
    encoder.refresh()
    assert encoder(torch.tensor([[1.0, 5.0], [100.0, 6.0]])).tolist() == [[0.0, 0.0], [3.0, 3.0]]


def test_copies_of_an_encoder_see_observations_in_the_same_units() -> None:
    encoder = Normalized(SPACE, Normalized.Config())
    target = copy.deepcopy(encoder)
    encoder.on_env_step(step([[0.0, 1.0], [4.0, 3.0]]))
    encoder.refresh()
    assert target(torch.tensor([[2.0, 3.0]])).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("cls", [PPO, SAC])
def test_moments_are_part_of_an_agents_state(cls: type) -> None:
    suite = counting_suite("counting")
    agent, restored = (make_agent(cls, cls.Config(), suite.spec, encoder=Normalized) for _ in range(2))
    encoder = agent.critics.encoder if cls is SAC else agent.networks.encoder
    size = suite.spec.observation_space.shape[0]
    agent.on_env_step(step(np.random.default_rng(1).normal(5, 2, (6, size)).tolist()))
    encoder.refresh()
    restored.load_state(agent.state())
    observation, tasks = np.ones((3, size), np.float32), np.arange(3)
    actions = [each.act(observation, tasks, explore=False).action for each in (agent, restored)]
    np.testing.assert_array_equal(*actions)
    assert float(encoder.moments.count) == 6
