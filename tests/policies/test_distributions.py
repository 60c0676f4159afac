"""Action distributions: numbers worked by hand, oracles, and the ends of the range.

Shapes: B batch, A action dimensions or number of actions, K critics.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, TanhTransform, TransformedDistribution, kl_divergence

from mtrl.policies.distributions import DiagonalGaussian, MaskedCategorical, SquashedGaussian, detached
from mtrl.seeding import torch_stream

LOWEST = torch.finfo(torch.float32).min


def random_gaussian(rows: int, size: int, stream: str = "gaussian") -> tuple[SquashedGaussian, Tensor]:
    generator = torch_stream(1, stream)
    mean, log_std, noise = (torch.randn(rows, size, generator=generator, dtype=torch.float64) for _ in range(3))
    return SquashedGaussian(mean, log_std), noise


def masked(logits: Tensor, legal: Tensor) -> MaskedCategorical:
    return MaskedCategorical(torch.where(legal, logits, LOWEST))


def test_the_squashed_log_probability_agrees_with_torch_distributions() -> None:
    gaussian, noise = random_gaussian(200, 3)
    plain = Independent(Normal(gaussian.mean, gaussian.log_std.exp()), 1)
    oracle = TransformedDistribution(plain, [TanhTransform(cache_size=1)])
    unsquashed = gaussian.mean + gaussian.log_std.exp() * noise
    action = oracle.transforms[0](unsquashed)
    torch.testing.assert_close(gaussian.sample(noise), action)
    torch.testing.assert_close(gaussian.log_prob_of_noise(noise), oracle.log_prob(action), rtol=1e-10, atol=1e-9)


def test_the_squashed_density_integrates_to_one() -> None:
    gaussian = SquashedGaussian(torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([[-0.3]], dtype=torch.float64))
    noise = torch.linspace(-9, 9, 20_001, dtype=torch.float64).unsqueeze(-1)
    density = gaussian.log_prob_of_noise(noise).exp()
    assert torch.trapezoid(density, gaussian.sample(noise).squeeze(-1)).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("unsquashed", [-20.0, 20.0, -300.0, 300.0])
def test_the_log_probability_is_finite_however_large_the_pre_activation(unsquashed: float) -> None:
    mean = torch.tensor([[unsquashed]], requires_grad=True)
    log_std = torch.zeros(1, 1, requires_grad=True)
    log_prob = SquashedGaussian(mean, log_std).log_prob_of_noise(torch.zeros(1, 1))
    # log N(0) - 2 (log 2 - |u| - log(1 + exp(-2 |u|)))
    expected = -0.5 * math.log(2 * math.pi) - 2 * (math.log(2) - abs(unsquashed))
    assert log_prob.item() == pytest.approx(expected, rel=1e-6)
    gradient = torch.autograd.grad(log_prob.sum(), [mean, log_std])
    assert all(torch.isfinite(value).all() for value in gradient)
    assert gradient[0].item() == pytest.approx(2 * math.copysign(1, unsquashed))


def test_actions_stay_in_the_box() -> None:
    for dtype in (torch.float32, torch.float64):
        gaussian = SquashedGaussian(torch.full((4, 2), 50.0, dtype=dtype), torch.full((4, 2), 2.0, dtype=dtype))
        for noise in (-1e3, 0.0, 1e3):
            assert (gaussian.sample(torch.full((4, 2), noise, dtype=dtype)).abs() <= 1).all()


def test_the_mode_is_the_squashed_mean() -> None:
    gaussian, noise = random_gaussian(5, 2)
    assert torch.equal(gaussian.mode(), gaussian.mean.tanh())
    torch.testing.assert_close(gaussian.mode(), gaussian.sample(torch.zeros_like(noise)))


def test_a_sample_carries_gradients_to_mean_and_standard_deviation() -> None:
    mean, log_std = torch.tensor([[0.3]], requires_grad=True), torch.tensor([[-0.5]], requires_grad=True)
    noise = torch.tensor([[0.7]])
    expected = SquashedGaussian(mean, log_std).expect(lambda action: action, noise)
    gradient = torch.autograd.grad(expected.value.sum(), [mean, log_std])
    slope = 1 - math.tanh(0.3 + math.exp(-0.5) * 0.7) ** 2
    assert gradient[0].item() == pytest.approx(slope, rel=1e-5)
    assert gradient[1].item() == pytest.approx(slope * math.exp(-0.5) * 0.7, rel=1e-5)


def test_continuous_expectation_is_the_value_of_the_sampled_action() -> None:
    gaussian, noise = random_gaussian(5, 1)
    expected = gaussian.expect(lambda action: 2 * action, noise)
    torch.testing.assert_close(expected.value, 2 * gaussian.sample(noise).squeeze(-1))
    torch.testing.assert_close(expected.log_prob, gaussian.log_prob_of_noise(noise))


def test_a_masked_categorical_never_picks_an_illegal_action() -> None:
    legal = torch.tensor([True, False, True, False])
    generator = torch_stream(1, "noise")
    for scale in (0.0, 1.0, 1e4, 1e30):
        logits = scale * torch.randn(500, 4, generator=generator)
        logits[:, 1] = scale  # the highest, but illegal
        distribution = masked(logits, legal)
        noises = [torch.rand(500, 4, generator=generator), torch.zeros(500, 4), torch.ones(500, 4)]
        noises += [torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(500, 4)]
        for action in [distribution.mode(), *map(distribution.sample, noises)]:
            assert legal[action].all()
        assert torch.isfinite(distribution.log_probs[:, legal]).all()
        assert (distribution.log_probs.exp()[:, ~legal] == 0).all()


def test_gumbel_max_samples_with_the_softmax_frequencies() -> None:
    logits = torch.tensor([1.0, -0.5, 0.2, 9.0, 0.0])
    legal = torch.tensor([True, True, True, False, True])
    num_samples = 200_000
    distribution = masked(logits.expand(num_samples, 5), legal)
    counts = distribution.sample(torch.rand(num_samples, 5, generator=torch_stream(1, "noise"))).bincount(minlength=5)
    expected = num_samples * torch.softmax(torch.where(legal, logits, -torch.inf), 0)
    chi_squared = ((counts - expected)[legal] ** 2 / expected[legal]).sum()
    assert counts[3] == 0
    assert chi_squared < 3 + 5 * math.sqrt(6)


def test_discrete_expectation_is_the_sum_over_legal_actions() -> None:
    generator = torch_stream(1, "expectation")
    logits, values = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    legal = torch.tensor([[True, True, True, True], [True, False, True, False], [False, False, True, False]])[
        torch.tensor([0, 1, 2, 0, 1, 2])
    ]
    found = masked(logits, legal).expect(lambda action: values, torch.empty(0))
    for row in range(6):
        actions = [action for action in range(4) if legal[row, action]]
        total = sum(math.exp(logits[row, action]) for action in actions)
        probs = {action: math.exp(logits[row, action]) / total for action in actions}
        value = sum(p * values[row, a].item() for a, p in probs.items())
        log_prob = sum(p * math.log(p) for p in probs.values())
        assert found.value[row].item() == pytest.approx(value, abs=1e-5)
        assert found.log_prob[row].item() == pytest.approx(log_prob, abs=1e-5)


def test_illegal_actions_get_no_gradient() -> None:
    logits = torch.tensor([[0.5, 2.0, -1.0, 40.0]], requires_grad=True)
    legal = torch.tensor([True, True, True, False])
    values = torch.tensor([[1.0, 2.0, 3.0, 1e6]])
    expected = masked(logits, legal).expect(lambda action: values, torch.empty(0))
    (gradient,) = torch.autograd.grad((expected.value - expected.log_prob).sum(), logits)
    assert torch.isfinite(gradient).all()
    assert gradient[0, 3] == 0
    assert (gradient[0, :3] != 0).all()


def test_a_sure_policy_has_entropy_zero_and_finite_gradients() -> None:
    logits = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    expected = MaskedCategorical(logits).expect(lambda action: torch.zeros(1, 3), torch.empty(0))
    assert expected.log_prob.item() == 0
    assert torch.isfinite(torch.autograd.grad(expected.log_prob.sum(), logits)[0]).all()


@pytest.mark.parametrize("cls", [SquashedGaussian, DiagonalGaussian])
def test_the_divergence_of_gaussians_agrees_with_torch_distributions(cls: type) -> None:
    first, second = random_gaussian(200, 3)[0], random_gaussian(200, 3, stream="other")[0]
    found = cls(first.mean, first.log_std).kl_divergence(cls(second.mean, second.log_std))
    oracle = [Independent(Normal(gaussian.mean, gaussian.log_std.exp()), 1) for gaussian in (first, second)]
    torch.testing.assert_close(found, kl_divergence(*oracle), rtol=1e-10, atol=1e-10)


def test_squashing_leaves_the_divergence_as_it_is() -> None:
    first, second = (
        SquashedGaussian(*torch.tensor([[[mean]], [[log_std]]], dtype=torch.float64))
        for mean, log_std in ((0.4, -0.3), (-0.1, 0.2))
    )
    noise = torch.linspace(-9, 9, 20_001, dtype=torch.float64).unsqueeze(-1)
    unsquashed = first.mean + first.log_std.exp() * noise
    others_noise = (unsquashed - second.mean) * (-second.log_std).exp()
    log_probs = first.log_prob_of_noise(noise), second.log_prob_of_noise(others_noise)
    action = first.sample(noise).squeeze(-1)
    integral = torch.trapezoid(log_probs[0].exp() * (log_probs[0] - log_probs[1]), action)
    assert integral.item() == pytest.approx(first.kl_divergence(second).item(), abs=1e-6)


def test_the_divergence_of_categoricals_is_the_sum_over_legal_actions() -> None:
    generator = torch_stream(1, "divergence")
    own, other = torch.randn(2, 50, 4, generator=generator)
    legal = torch.tensor([True, False, True, True])
    found = masked(own, legal).kl_divergence(masked(other, legal))
    oracle = kl_divergence(Categorical(logits=own[:, legal]), Categorical(logits=other[:, legal]))
    torch.testing.assert_close(found, oracle, rtol=1e-5, atol=1e-6)


def test_a_product_of_powers_has_the_density_of_its_name() -> None:
    first, second = random_gaussian(2, 3)[0], random_gaussian(2, 3, stream="other")[0]
    first, second = (DiagonalGaussian(gaussian.mean, gaussian.log_std) for gaussian in (first, second))
    product = first.power_product(0.5, second, 3.0)
    samples = torch.randn(40, 2, 3, generator=torch_stream(1, "samples"), dtype=torch.float64)
    log_density = torch.stack([0.5 * first.log_prob(x) + 3 * second.log_prob(x) - product.log_prob(x) for x in samples])
    assert log_density.std(0).max() < 1e-10  # all that is left is the normalising constant of each row


def test_illegal_actions_stay_the_least_likely_in_a_product_of_powers() -> None:
    logits = torch.randn(2, 5, 4, generator=torch_stream(1, "product")).requires_grad_()
    legal = torch.tensor([True, False, True, True])
    product = masked(logits[0], legal).power_product(0.5, masked(logits[1], legal), 100.0)
    assert (product.logits[:, ~legal] == LOWEST).all()
    torch.testing.assert_close(product.logits[:, legal], (0.5 * logits[0] + 100 * logits[1])[:, legal])
    (gradient,) = torch.autograd.grad(
        (product.entropy() + product.kl_divergence(masked(logits[0], legal))).sum(), logits
    )
    assert torch.isfinite(gradient).all()
    assert (gradient[..., ~legal] == 0).all()


def test_a_detached_distribution_is_outside_the_graph() -> None:
    mean, log_std = torch.zeros(2, 1, 1, requires_grad=True)
    gaussian = detached(DiagonalGaussian(mean, log_std))
    assert not gaussian.mean.requires_grad
    assert not gaussian.log_std.requires_grad
