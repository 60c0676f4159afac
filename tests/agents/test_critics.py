"""Categorical critics against numbers worked by hand, and what annealing does. Shapes: B batch, K critics, N bins."""

from __future__ import annotations

import math

import pytest
import torch

from agents.critics import Bins
from mtrl.errors import BadInput
from mtrl.normalization.popart import PopArt
from tests.agents.constants import DISCRETE, STANDARD_GAUSSIAN, batch_of, sac, with_constants, with_target

THREE = {"critic_bins": 3, "critic_limit": 3.0}
"""Bins of width 2 around -2, 0 and 2; targets spread with a standard deviation of 1.5."""


def normal_mass(low: float, high: float, mean: float, deviation: float = 1.5) -> float:
    return sum(sign * math.erf((edge - mean) / (math.sqrt(2) * deviation)) for edge, sign in ((high, 1), (low, -1))) / 2


def test_the_value_of_a_histogram_is_its_mean() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]))
    assert Bins(3, 3.0).mean(logits).tolist() == pytest.approx([-0.5, 2.0])


def test_a_target_is_a_gaussian_cut_off_at_the_bounds() -> None:
    masses = [normal_mass(low, low + 2, 1.0) for low in (-3, -1, 1)]
    expected = [mass / sum(masses) for mass in masses]
    assert Bins(3, 3.0).histogram(torch.tensor([1.0]))[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_target_beyond_the_bounds_counts_as_the_bound() -> None:
    bins = Bins(101, 10.0)
    beyond, bound = bins.histogram(torch.tensor([1e6, -50.0])), bins.histogram(torch.tensor([10.0, -10.0]))
    torch.testing.assert_close(beyond, bound)
    assert torch.isfinite(beyond).all()


def test_with_many_bins_mean_and_histogram_are_inverse() -> None:
    bins, targets = Bins(101, 10.0), torch.linspace(-9, 9, 37)
    torch.testing.assert_close(bins.mean(bins.histogram(targets).log()), targets, atol=1e-3, rtol=0)


def test_the_loss_is_the_cross_entropy_of_the_action_taken() -> None:
    agent = with_constants(sac(discount=0.0, **THREE), STANDARD_GAUSSIAN, [[0.0, 0.0, 0.0], [0.0, 0.0, math.log(2)]])
    batch = with_target(agent, batch_of([1], reward=torch.tensor([1.0])))
    masses = [normal_mass(low, low + 2, 1.0) for low in (-3, -1, 1)]
    p = [mass / sum(masses) for mass in masses]
    first = -sum(p) * math.log(1 / 3)
    second = -(p[0] + p[1]) * math.log(1 / 4) - p[2] * math.log(2 / 4)
    result = agent.critic_losses(agent.critic_group.parameters, batch)
    assert result.losses.tolist() == pytest.approx([0.0, (first + second) / 2, 0.0], rel=1e-5)
    assert result.metrics["q_value"].tolist() == pytest.approx([(0 + 0.5) / 2])


def test_discrete_actions_have_a_histogram_each() -> None:
    # Four actions of three bins: all uniform but action 2, which is surely the highest bin.
    logits = [0.0] * 6 + [-50.0, -50.0, 0.0] + [0.0] * 3
    agent = with_constants(sac(DISCRETE, discount=0.0, **THREE), [0.0] * 4, [logits, logits])
    batch = batch_of([0], observation=torch.ones(1, 5), action=torch.tensor([2]))
    assert agent.min_q(agent.critics, batch.observation, None, batch, "critic")[0].tolist() == pytest.approx(
        [0, 0, 2, 0]
    )


def test_a_normalizer_that_moves_its_units_is_refused() -> None:
    with pytest.raises(BadInput, match="choose another, such as --normalizer return-range"):
        sac(components={"normalizer": PopArt}, **THREE)


def test_annealing_lowers_the_rate_of_every_group_to_zero() -> None:
    agent = sac(learning_rate=0.1, annealing_steps=200)
    rates = []
    for step in (0, 50, 200, 300):
        for group in agent.groups().values():
            group.anneal(step, agent.config.annealing_steps)
        rates.append([group.learning_rate for group in agent.groups().values()])
    assert rates == [pytest.approx([rate, rate]) for rate in (0.1, 0.075, 0.0, 0.0)]
