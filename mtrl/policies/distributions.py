"""Action distributions, with the operations that the learners need.

Soft actor-critic needs `expect`, the one method in which its continuous and discrete forms differ. Policy gradients
need `log_prob` of actions taken before and `entropy`; a squashed Gaussian offers neither: its entropy has no closed
form, and the pre-activation of a stored action is lost where tanh saturates.

Shapes: B batch, A action dimensions or number of actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

D = TypeVar("D", bound=Any)


class Expectation(NamedTuple):
    """Expectations under the policy, one per sample."""

    value: Tensor  # (B,)
    log_prob: Tensor  # (B,) negative entropy


class ActionDistribution(Protocol):
    """What a policy returns for B observations: a frozen dataclass of tensors with leading dimension B."""

    def sample(self, noise: Tensor) -> Tensor:
        """Actions made of `noise` (B, ...), the head's `sample_noise`."""

    def mode(self) -> Tensor:
        """The deterministic actions."""

    def kl_divergence(self, other: Self) -> Tensor:
        """KL(self || other) (B,), exact."""

    def power_product(self, power: float, other: Self, other_power: float) -> Self:
        """The distribution in proportion to self^power other^other_power."""


class SoftDistribution(ActionDistribution, Protocol):
    """What soft actor-critic asks for."""

    def expect(self, action_values: Callable[[Tensor | None], Tensor], noise: Tensor) -> Expectation:
        """Expected value and log-probability.

        `action_values(action)` gives (B, 1) for continuous actions, `action_values(None)` (B, A) for discrete.
        """


class PolicyGradientDistribution(ActionDistribution, Protocol):
    """What policy gradients ask for."""

    def log_prob(self, action: Tensor) -> Tensor:
        """log pi (B,) of what `sample` gave, (B, A) or (B,)."""

    def entropy(self) -> Tensor:
        """(B,)."""


def detached(distribution: D) -> D:
    """The distribution outside the graph."""
    return replace(distribution, **{name: value.detach() for name, value in vars(distribution).items()})


@dataclass(frozen=True)
class Gaussian:
    """What the two continuous distributions have in common: independent Gaussians."""

    mean: Tensor  # (B, A)
    log_std: Tensor  # (B, A)

    def kl_divergence(self, other: Self) -> Tensor:
        """In closed form; whatever invertible function, a tanh, stands behind both leaves it as it is."""
        log_ratio = self.log_std - other.log_std
        shift = (self.mean - other.mean) * (-other.log_std).exp()
        return (0.5 * ((2 * log_ratio).exp() + shift.square() - 1) - log_ratio).sum(-1)

    def power_product(self, power: float, other: Self, other_power: float) -> Self:
        """Precisions add up and weigh the means. Of squashed Gaussians the product is taken before the tanh."""
        own, others = power * (-2 * self.log_std).exp(), other_power * (-2 * other.log_std).exp()
        precision = own + others
        mean = (own * self.mean + others * other.mean) / precision
        return type(self)(mean, -0.5 * precision.log())


@dataclass(frozen=True)
class SquashedGaussian(Gaussian):
    """tanh of a Gaussian, on [-1, 1]^A (Haarnoja et al., 2018, arXiv:1812.05905, appendix C)."""

    def sample(self, noise: Tensor) -> Tensor:
        return torch.tanh(self._unsquashed(noise))

    def mode(self) -> Tensor:
        return torch.tanh(self.mean)

    def log_prob_of_noise(self, noise: Tensor) -> Tensor:
        """log pi (B,) of `sample(noise)`, finite however large the pre-activation."""
        return self._log_prob(self._unsquashed(noise), noise)

    def expect(self, action_values: Callable[[Tensor | None], Tensor], noise: Tensor) -> Expectation:
        """One reparametrised sample."""
        unsquashed = self._unsquashed(noise)
        value = action_values(torch.tanh(unsquashed)).squeeze(-1)
        return Expectation(value, self._log_prob(unsquashed, noise))

    def _unsquashed(self, noise: Tensor) -> Tensor:
        return self.mean + self.log_std.exp() * noise

    def _log_prob(self, unsquashed: Tensor, noise: Tensor) -> Tensor:
        gaussian = -0.5 * noise.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), without cancellation
        squash = 2 * (math.log(2) - unsquashed - F.softplus(-2 * unsquashed))
        return (gaussian - squash).sum(-1)


@dataclass(frozen=True)
class DiagonalGaussian(Gaussian):
    """A Gaussian of independent dimensions, on all of R^A."""

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        noise = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * noise.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


@dataclass(frozen=True)
class MaskedCategorical:
    """A categorical over the legal actions; illegal ones have the lowest finite logit (never minus infinity)."""

    logits: Tensor  # (B, A), masked

    @property
    def log_probs(self) -> Tensor:
        return F.log_softmax(self.logits, dim=-1)

    def sample(self, noise: Tensor) -> Tensor:
        """Gumbel-max over uniform `noise` (B, A)."""
        gumbel = -torch.log(-torch.log(noise.clamp(1e-10, 1 - 1e-7)))
        return (self.logits + gumbel).argmax(-1)

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """log pi (B,) of legal actions (B,) int64."""
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -_mean_log_prob(self.log_probs)

    def kl_divergence(self, other: Self) -> Tensor:
        log_probs = self.log_probs
        probs = log_probs.exp()
        return torch.where(probs > 0, probs * (log_probs - other.log_probs), 0.0).sum(-1)

    def power_product(self, power: float, other: Self, other_power: float) -> Self:
        """Of two distributions over the same legal actions: logits power * own + other_power * other."""
        lowest = torch.finfo(self.logits.dtype).min
        # Where illegal the sum overflows, which must reach no gradient: there both are the lowest number, constants.
        logits = power * self.logits + other_power * other.logits
        return type(self)(torch.where(self.logits > lowest, logits, lowest))

    def expect(self, action_values: Callable[[Tensor | None], Tensor], noise: Tensor) -> Expectation:
        """The exact sum over actions (Christodoulou, 2019, arXiv:1910.07207); illegal ones have probability 0."""
        log_probs = self.log_probs
        value = (log_probs.exp() * action_values(None)).sum(-1)
        return Expectation(value, _mean_log_prob(log_probs))


def _mean_log_prob(log_probs: Tensor) -> Tensor:
    """Sum of p log p (B,); 0 times the lowest float is 0 where an action is illegal, so the sum does not see it."""
    probs = log_probs.exp()
    return torch.where(probs > 0, probs * log_probs, 0.0).sum(-1)
