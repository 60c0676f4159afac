"""Advantages worked by hand, and stable-baselines3's. Shapes: T time, N slots, D observation."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import RolloutBuffer as SB3RolloutBuffer

from agents.gae import advantages
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.types import ActionStep, Batch, EnvStep, SuiteSpec, TaskSpec

DISCOUNT, TRACE = 0.9, 0.8


def stored(
    observation: np.ndarray, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, finals: np.ndarray
) -> Batch:
    """What the rollout reader gives for observations (T + 1, N, D), the rest (T, N), successors at ends (T, N, D)."""
    num_steps, num_slots = reward.shape
    spec = SuiteSpec(
        name="scripted",
        tasks=tuple(TaskSpec(name=name, index=index, max_episode_steps=99) for index, name in enumerate("ab")),
        observation_space=gym.spaces.Box(-np.inf, np.inf, observation.shape[2:], np.float32),
        action_space=gym.spaces.Box(-1, 1, (1,), np.float32),
        protocol="none",
    )
    buffer = RolloutBuffer(spec, num_slots, num_steps, seed=0)
    for t in range(num_steps):
        ended = (terminated[t] | truncated[t])[:, None]
        step = EnvStep(
            task_ids=np.arange(num_slots) % 2,
            observation=observation[t + 1],
            reward=reward[t],
            terminated=terminated[t],
            truncated=truncated[t],
            final_observation=np.where(ended, finals[t], observation[t + 1]),
            episodes=(),
        )
        buffer.add(observation[t], ActionStep(np.zeros((num_slots, 1), np.float32)), step)
    return buffer.rollout()


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        # third: 3 + 0.9 * 4 - 7 = -0.4; second: 2 + 0.9 * 5 - 2 = 4.5; first: 1 + 0.9 * 2 - 1 + 0.72 * 4.5 = 5.04
        pytest.param(False, True, [5.04, 4.5, -0.4], id="a truncated step bootstraps and cuts the trace"),
        # second: 2 - 2 = 0; first: 1.8
        pytest.param(True, False, [1.8, 0.0, -0.4], id="after a terminated step nothing follows"),
        pytest.param(True, True, [1.8, 0.0, -0.4], id="both together terminate"),
        # The row below is the successor: 2 + 0.9 * 7 - 2 + 0.72 * -0.4 = 6.012; first: 1.8 + 0.72 * 6.012
        pytest.param(False, False, [6.12864, 6.012, -0.4], id="an episode that goes on"),
    ],
)
def test_three_steps_worked_by_hand(terminated: bool, truncated: bool, expected: list[float]) -> None:
    # One slot; the value of an observation is the number that it is. Step 2 leads to 5 if it ends its episode, and the
    # next begins at 7.
    observation = np.array([1, 2, 7, 4], np.float32).reshape(4, 1, 1)
    finals = np.array([0, 5, 0], np.float32).reshape(3, 1, 1)
    middle = np.array([[False], [True], [False]])
    batch = stored(observation, np.array([[1], [2], [3]], np.float32), middle & terminated, middle & truncated, finals)
    found = advantages(batch, batch.observation.squeeze(-1), batch.next_observation.squeeze(-1), DISCOUNT, TRACE)
    torch.testing.assert_close(found.flatten(), torch.tensor(expected))


@pytest.mark.parametrize("seed", range(5))
def test_advantages_from_the_rollout_reader_are_stable_baselines_ones(seed: int) -> None:
    generator = np.random.default_rng(seed)
    num_steps, num_slots, size = 40, 4, 3
    observation = generator.normal(size=(num_steps + 1, num_slots, size)).astype(np.float32)
    finals = generator.normal(size=(num_steps, num_slots, size)).astype(np.float32)
    reward = generator.normal(size=(num_steps, num_slots)).astype(np.float32)
    # Both flags are sometimes set, and the last row sometimes ends an episode.
    terminated, truncated = generator.random((2, num_steps, num_slots)) < 0.15
    terminated[-1, 0], truncated[-1, 1] = True, True
    weights = generator.normal(size=size).astype(np.float32)

    batch = stored(observation, reward, terminated, truncated, finals)
    values, next_values = (rows @ torch.from_numpy(weights) for rows in (batch.observation, batch.next_observation))
    ours = advantages(batch, values, next_values, DISCOUNT, TRACE)

    theirs = SB3RolloutBuffer(
        num_steps,
        gym.spaces.Box(-np.inf, np.inf, (size,)),
        gym.spaces.Box(-1, 1, (1,)),
        device="cpu",
        gae_lambda=TRACE,
        gamma=DISCOUNT,
        n_envs=num_slots,
    )
    starts = np.ones(num_slots, bool)
    for t in range(num_steps):
        # As its `collect_rollouts` does: a time-out's bootstrap value is added to the reward.
        timed_out = truncated[t] & ~terminated[t]
        bootstrapped = reward[t] + DISCOUNT * timed_out * (finals[t] @ weights)
        of_rows = torch.from_numpy(observation[t] @ weights)
        theirs.add(observation[t], np.zeros((num_slots, 1)), bootstrapped, starts, of_rows, torch.zeros(num_slots))
        starts = terminated[t] | truncated[t]
    theirs.compute_returns_and_advantage(torch.from_numpy(observation[-1] @ weights), starts)
    torch.testing.assert_close(ours, torch.from_numpy(theirs.advantages), rtol=1e-5, atol=1e-5)
