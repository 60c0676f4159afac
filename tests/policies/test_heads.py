"""Heads: network outputs to distributions, and what a critic of an action space looks like."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from mtrl.policies import CategoricalHead, SquashedGaussianHead, make_soft_head
from mtrl.seeding import torch_stream
from mtrl.types import SuiteSpec, TaskSpec
from tests.env.counting import counting_suite

CONTINUOUS = counting_suite("counting").spec  # two action dimensions
DISCRETE = counting_suite("counting-discrete").spec  # four actions, task 1 lacks the last


def test_the_action_space_chooses_the_head() -> None:
    assert isinstance(make_soft_head(CONTINUOUS), SquashedGaussianHead)
    assert isinstance(make_soft_head(DISCRETE), CategoricalHead)


def test_log_standard_deviations_are_bounded() -> None:
    outputs = torch.tensor([[0.1, 0.2, -50.0, 50.0]])
    gaussian = make_soft_head(CONTINUOUS).distribution(outputs, torch.zeros(1, dtype=torch.int64))
    assert gaussian.mean.tolist() == outputs[:, :2].tolist()
    assert gaussian.log_std.tolist() == [[-20.0, 2.0]]


def test_continuous_actions_with_other_bounds_are_refused() -> None:
    spec = SuiteSpec(
        name="wide",
        tasks=(TaskSpec(name="only", index=0, max_episode_steps=1),),
        observation_space=gym.spaces.Box(-1, 1, (1,), np.float32),
        action_space=gym.spaces.Box(-2, 2, (1,), np.float32),
        protocol="none",
    )
    with pytest.raises(ValueError, match="bounded by -1 and 1"):
        make_soft_head(spec)


def test_random_actions_are_uniform_over_the_legal_ones() -> None:
    generator = torch_stream(1, "random actions")
    tasks = torch.arange(3).repeat(20_000)
    actions = make_soft_head(DISCRETE).random_action(tasks, generator)
    for task, legal in ((0, 4), (1, 3), (2, 4)):
        rates = actions[tasks == task].bincount(minlength=4) / 20_000
        expected = torch.tensor([1 / legal if action < legal else 0.0 for action in range(4)])
        torch.testing.assert_close(rates, expected, atol=0.015, rtol=0)
    continuous = make_soft_head(CONTINUOUS).random_action(tasks, generator)
    assert continuous.shape == (60_000, 2)
    assert -1 <= continuous.min() < -0.99 < 0.99 < continuous.max() <= 1
    assert continuous.mean().item() == pytest.approx(0, abs=0.01)
    assert continuous.var().item() == pytest.approx(1 / 3, abs=0.01)


def test_the_target_entropy_is_minus_the_number_of_action_dimensions() -> None:
    head = make_soft_head(CONTINUOUS)
    assert head.target_entropy(None).tolist() == [-2.0, -2.0, -2.0]
    assert head.target_entropy(0.5).tolist() == [-1.0, -1.0, -1.0]


def test_the_discrete_target_entropy_counts_legal_actions_only() -> None:
    head = make_soft_head(DISCRETE)
    expected = [math.log(4), math.log(3), math.log(4)]
    assert head.target_entropy(None).tolist() == pytest.approx([0.89 * entropy for entropy in expected])
    assert head.target_entropy(0.5).tolist() == pytest.approx([0.5 * entropy for entropy in expected])


def test_a_discrete_critic_has_a_value_per_action_and_a_continuous_one_takes_the_action() -> None:
    features = torch.ones(2, 5)
    discrete, continuous = make_soft_head(DISCRETE), make_soft_head(CONTINUOUS)
    assert (discrete.critic_action_inputs, discrete.critic_outputs) == (0, 4)
    assert (continuous.critic_action_inputs, continuous.critic_outputs) == (2, 1)
    assert discrete.critic_input(features, None) is features
    assert continuous.critic_input(features, torch.zeros(2, 2)).shape == (2, 7)
    values = torch.arange(16.0).view(2, 2, 4)  # (K, B, A)
    assert discrete.chosen_values(values, torch.tensor([3, 1])).tolist() == [[3, 5], [11, 13]]
    assert continuous.chosen_values(torch.tensor([[[1.0], [2.0]]]), torch.zeros(2, 2)).tolist() == [[1, 2]]
