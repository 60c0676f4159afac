"""stable-baselines3 as the oracle: the action distributions. Shapes: B batch, A action."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    SquashedDiagGaussianDistribution,
)
from torch import Tensor

from mtrl.policies.distributions import DiagonalGaussian, MaskedCategorical, SquashedGaussian


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


def test_the_diagonal_gaussian_is_stable_baselines_one() -> None:
    mean, log_std, noise = gaussian(200, 4, torch.float64)
    ours, theirs = DiagonalGaussian(mean, log_std), DiagGaussianDistribution(4).proba_distribution(mean, log_std)
    action = ours.sample(noise)
    torch.testing.assert_close(action, mean + log_std.exp() * noise)
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.mode(), theirs.mode())


def test_the_categorical_is_stable_baselines_one_on_the_legal_actions() -> None:
    logits = gaussian(200, 5, torch.float64)[0]
    legal = torch.tensor([True, False, True, True, False])
    ours = MaskedCategorical(torch.where(legal, logits, torch.finfo(torch.float64).min))
    theirs = CategoricalDistribution(3).proba_distribution(logits[:, legal])
    for index, action in enumerate((0, 2, 3)):
        expected = theirs.log_prob(torch.full((200,), index))
        torch.testing.assert_close(ours.log_prob(torch.full((200,), action)), expected)
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
