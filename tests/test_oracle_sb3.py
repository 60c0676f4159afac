"""stable-baselines3 as the oracle: the squashed Gaussian, and advantages from the rollout reader of our buffer.

Shapes: T time, N slots, D observation, A action.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import RolloutBuffer as SB3RolloutBuffer
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from torch import Tensor

from mtrl.buffer import RolloutBuffer
from mtrl.policies.distributions import SquashedGaussian
from mtrl.types import Acted, Batch, EnvStep, TaskSpec, TaskSuite

DISCOUNT, TRACE = 0.9, 0.8


def gaussian(num_rows: int, size: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Means, log standard deviations and noise (B, A) of moderate size."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(3, num_rows, size, generator=generator, dtype=torch.float64)
    return values[0].to(dtype), (0.5 * values[1] - 1).to(dtype), values[2].to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("size", [1, 4, 8])
def test_the_squashed_gaussian_is_stable_baselines_one(size: int, dtype: torch.dtype, tolerance: float) -> None:
    mean, log_std, noise = gaussian(200, size, dtype)
    ours = SquashedGaussian(mean, log_std)
    # Their epsilon keeps the logarithm finite and makes the density inexact; without it the two must agree.
    theirs = SquashedDiagGaussianDistribution(size, epsilon=0.0).proba_distribution(mean, log_std)
    before_tanh = mean + log_std.exp() * noise
    torch.testing.assert_close(ours.sample(noise), torch.tanh(before_tanh))
    torch.testing.assert_close(
        ours.log_prob_of_noise(noise),
        theirs.log_prob(torch.tanh(before_tanh), gaussian_actions=before_tanh),
        rtol=tolerance,
        atol=tolerance,
    )
    torch.testing.assert_close(ours.mode(), theirs.mode())


def test_their_default_epsilon_is_all_that_differs() -> None:
    mean, log_std, noise = gaussian(200, 4, torch.float64)
    theirs = SquashedDiagGaussianDistribution(4).proba_distribution(mean, log_std)
    before_tanh = mean + log_std.exp() * noise
    log_prob = theirs.log_prob(torch.tanh(before_tanh), gaussian_actions=before_tanh)
    torch.testing.assert_close(SquashedGaussian(mean, log_std).log_prob_of_noise(noise), log_prob, rtol=1e-3, atol=1e-3)


def test_gradients_of_the_log_probability_agree() -> None:
    mean, log_std, noise = gaussian(50, 4, torch.float64)
    gradients = []
    for ours in (True, False):
        leaves = mean.clone().requires_grad_(), log_std.clone().requires_grad_()
        if ours:
            log_prob = SquashedGaussian(*leaves).log_prob_of_noise(noise)
        else:
            theirs = SquashedDiagGaussianDistribution(4, epsilon=0.0).proba_distribution(*leaves)
            before_tanh = leaves[0] + leaves[1].exp() * noise
            log_prob = theirs.log_prob(torch.tanh(before_tanh), gaussian_actions=before_tanh)
        gradients.append(torch.autograd.grad(log_prob.sum(), leaves))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("before_tanh", [-20.0, -9.5, 9.5, 20.0])
def test_the_log_probability_is_exact_where_tanh_saturates(before_tanh: float, dtype: torch.dtype) -> None:
    mean = torch.full((1, 1), before_tanh, dtype=dtype, requires_grad=True)
    log_std = torch.zeros(1, 1, dtype=dtype)
    log_prob = SquashedGaussian(mean, log_std).log_prob_of_noise(torch.zeros(1, 1, dtype=dtype))
    # log N(u; u, 1) - log(1 - tanh(u)^2), the latter as 2 log 2 - 2|u| - 2 log(1 + exp(-2|u|))
    size = abs(before_tanh)
    exact = -0.5 * np.log(2 * np.pi) - (2 * np.log(2) - 2 * size - 2 * np.log1p(np.exp(-2 * size)))
    assert log_prob.item() == pytest.approx(exact, rel=1e-6 if dtype == torch.float32 else 1e-12)
    (gradient,) = torch.autograd.grad(log_prob.sum(), mean)
    assert gradient.item() == pytest.approx(2 * np.tanh(before_tanh), rel=1e-6)  # d/du of -log(1 - tanh(u)^2)


def stored(
    observation: np.ndarray, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, finals: np.ndarray
) -> Batch:
    """What the rollout reader gives for observations (T + 1, N, D), the rest (T, N), successors at ends (T, N, D)."""
    num_steps, num_slots = reward.shape
    suite = TaskSuite(
        name="scripted",
        tasks=tuple(TaskSpec(name=name, index=index, max_episode_steps=99) for index, name in enumerate("ab")),
        observation_space=gym.spaces.Box(-np.inf, np.inf, observation.shape[2:], np.float32),
        action_space=gym.spaces.Box(-1, 1, (1,), np.float32),
        protocol="none",
    )
    buffer = RolloutBuffer(suite, num_slots, num_steps, seed=0)
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
        buffer.add(observation[t], Acted(np.zeros((num_slots, 1), np.float32)), step)
    return buffer.rollout()


def advantages(batch: Batch, values: Tensor, next_values: Tensor) -> Tensor:
    """Generalised advantage estimates (T, N): only `terminated` ends the return, either flag ends the trace."""
    error = batch.reward + DISCOUNT * ~batch.terminated * next_values - values
    goes_on = ~(batch.terminated | batch.truncated)
    result = torch.zeros_like(error)
    following = torch.zeros_like(error[0])
    for t in reversed(range(len(error))):
        following = error[t] + DISCOUNT * TRACE * goes_on[t] * following
        result[t] = following
    return result


def test_three_steps_of_advantages_worked_by_hand() -> None:
    # One slot; the value of an observation is the number that it is. Step 2 is cut off at 5, a new episode begins at 7.
    observation = np.array([1, 2, 7, 4], np.float32).reshape(4, 1, 1)
    finals = np.array([0, 5, 0], np.float32).reshape(3, 1, 1)
    flags = np.array([[False], [True], [False]])
    batch = stored(observation, np.array([[1], [2], [3]], np.float32), ~np.ones_like(flags), flags, finals)
    result = advantages(batch, batch.observation.squeeze(-1), batch.next_observation.squeeze(-1))
    # third: 3 + 0.9 * 4 - 7 = -0.4; second: 2 + 0.9 * 5 - 2 = 4.5; first: 1 + 0.9 * 2 - 1 + 0.72 * 4.5 = 5.04
    torch.testing.assert_close(result.flatten(), torch.tensor([5.04, 4.5, -0.4]))


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
    ours = advantages(
        batch, batch.observation @ torch.from_numpy(weights), batch.next_observation @ torch.from_numpy(weights)
    )

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
        values = torch.from_numpy(observation[t] @ weights)
        theirs.add(observation[t], np.zeros((num_slots, 1)), bootstrapped, starts, values, torch.zeros(num_slots))
        starts = terminated[t] | truncated[t]
    theirs.compute_returns_and_advantage(torch.from_numpy(observation[-1] @ weights), starts)
    torch.testing.assert_close(ours, torch.from_numpy(theirs.advantages), rtol=1e-5, atol=1e-5)
