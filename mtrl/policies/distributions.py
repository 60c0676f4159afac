"""Action distributions, and the one method in which continuous and discrete SAC differ: `expect`.

Shapes: B batch, A action dimensions or number of actions, K critics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Expectation(NamedTuple):
    """Expectations under the policy, row by row."""

    value: Tensor  # (B,) of the smallest critic
    log_prob: Tensor  # (B,) negative entropy


class ActionDistribution(Protocol):
    """What a policy returns for B observations."""

    def sample(self, noise: Tensor) -> Tensor:
        """Actions made of `noise` (B, ...), the head's `draw_noise`."""

    def mode(self) -> Tensor:
        """The deterministic actions."""

    def expect(self, action_values: Callable[[Tensor | None], Tensor], noise: Tensor) -> Expectation:
        """Expected value and log-probability.

        `action_values(action)` gives (K, B, 1) for continuous actions, `action_values(None)` (K, B, A) for discrete.
        """


@dataclass(frozen=True)
class SquashedGaussian:
    """tanh of a Gaussian, on [-1, 1]^A (Haarnoja et al., 2018, arXiv:1812.05905, appendix C)."""

    mean: Tensor  # (B, A)
    log_std: Tensor  # (B, A)

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
        value = action_values(torch.tanh(unsquashed)).squeeze(-1).amin(0)
        return Expectation(value, self._log_prob(unsquashed, noise))

    def _unsquashed(self, noise: Tensor) -> Tensor:
        return self.mean + self.log_std.exp() * noise

    def _log_prob(self, unsquashed: Tensor, noise: Tensor) -> Tensor:
        gaussian = -0.5 * noise.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), without cancellation
        squash = 2 * (math.log(2) - unsquashed - F.softplus(-2 * unsquashed))
        return (gaussian - squash).sum(-1)


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

    def expect(self, action_values: Callable[[Tensor | None], Tensor], noise: Tensor) -> Expectation:
        """The exact sum over actions (Christodoulou, 2019, arXiv:1910.07207); illegal ones have probability 0."""
        log_probs = self.log_probs
        probs = log_probs.exp()
        # 0 * lowest float is 0 where an action is illegal, so neither sum sees it.
        return Expectation(
            value=(probs * action_values(None).amin(0)).sum(-1),
            log_prob=torch.where(probs > 0, probs * log_probs, 0.0).sum(-1),
        )
