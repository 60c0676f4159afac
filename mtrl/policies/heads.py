"""Action heads: from network outputs to action distributions, one for each kind of action space.

Shapes: B batch, F features, A action dimensions or number of actions, M tasks, K critics.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from mtrl.policies.distributions import ActionDistribution, DiagonalGaussian, MaskedCategorical, SquashedGaussian
from mtrl.types import SuiteSpec


class ActionHead(nn.Module, ABC):
    """Turns network outputs into action distributions."""

    num_tasks: int
    num_outputs: int  # network outputs per sample
    clips: bool = False
    """Whether `to_environment` clips, so that the unclipped sample has to be stored where it is needed later."""

    @abstractmethod
    def distribution(self, outputs: Tensor, task_ids: Tensor) -> ActionDistribution:
        """outputs (B, num_outputs), task_ids (B,)."""

    @abstractmethod
    def sample_noise(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Noise (B, A) that `ActionDistribution.sample` takes."""

    def to_environment(self, sample: Tensor) -> Tensor:
        """The legal actions that samples stand for."""
        return sample

    def for_all_tasks(self) -> ActionHead:
        """The head of a policy that does not tell the tasks apart; what it trains, if anything, is its own."""
        return self


class SoftHead(ActionHead):
    """The heads of soft actor-critic; they also say what a critic of their action space looks like."""

    critic_action_inputs: int  # critic inputs beside the features
    critic_outputs: int

    @abstractmethod
    def random_action(self, task_ids: Tensor, generator: torch.Generator) -> Tensor:
        """Uniformly random legal actions, for warm-up."""

    @abstractmethod
    def critic_input(self, features: Tensor, action: Tensor | None) -> Tensor:
        """What a critic sees: (B, F + critic_action_inputs)."""

    @abstractmethod
    def chosen_values(self, values: Tensor, action: Tensor) -> Tensor:
        """The values (K, B) of the actions taken, from critic outputs (K, B, critic_outputs)."""

    @abstractmethod
    def target_entropy(self, scale: float | None) -> Tensor:
        """The entropy (M,) that a temperature aims at; `scale` None: the action space's usual one."""


class SquashedGaussianHead(SoftHead):
    """Continuous actions in [-1, 1]^A: tanh of a Gaussian, log standard deviation bounded by `log_std_bounds`."""

    def __init__(self, spec: SuiteSpec, log_std_bounds: tuple[float, float] = (-20.0, 2.0)):
        super().__init__()
        self.size = _box_size(spec)
        self.num_tasks = spec.num_tasks
        self.num_outputs = 2 * self.size
        self.critic_action_inputs = self.size
        self.critic_outputs = 1
        self.log_std_bounds = log_std_bounds

    def distribution(self, outputs: Tensor, task_ids: Tensor) -> SquashedGaussian:
        mean, log_std = outputs.chunk(2, dim=-1)
        return SquashedGaussian(mean, log_std.clamp(*self.log_std_bounds))

    def sample_noise(self, num_samples: int, generator: torch.Generator) -> Tensor:
        return torch.randn(num_samples, self.size, generator=generator, device=generator.device)

    def random_action(self, task_ids: Tensor, generator: torch.Generator) -> Tensor:
        return 2 * torch.rand(len(task_ids), self.size, generator=generator, device=generator.device) - 1

    def critic_input(self, features: Tensor, action: Tensor | None) -> Tensor:
        assert action is not None
        return torch.cat([features, action], dim=-1)

    def chosen_values(self, values: Tensor, action: Tensor) -> Tensor:
        return values.squeeze(-1)

    def target_entropy(self, scale: float | None) -> Tensor:
        """-scale dim(A), scale 1 by default (Haarnoja et al., 2018)."""
        return torch.full((self.num_tasks,), -(1.0 if scale is None else scale) * self.size)


class GaussianHead(ActionHead):
    """Continuous actions of an unsquashed Gaussian whose log standard deviations (M, A) are learnt, one set per task.

    What is sampled has the Gaussian's density and is what log-probabilities are of; the environment gets it clipped to
    the box.
    """

    clips = True

    def __init__(self, spec: SuiteSpec, initial_log_std: float = 0.0):
        super().__init__()
        self.size = _box_size(spec)
        self.num_tasks = spec.num_tasks
        self.num_outputs = self.size
        self.log_std = nn.Parameter(torch.full((spec.num_tasks, self.size), initial_log_std))

    def for_all_tasks(self) -> GaussianHead:
        head = copy.deepcopy(self)
        head.log_std = nn.Parameter(self.log_std.detach()[:1].clone())
        return head

    def distribution(self, outputs: Tensor, task_ids: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(outputs, self.log_std.expand(self.num_tasks, -1)[task_ids])

    def sample_noise(self, num_samples: int, generator: torch.Generator) -> Tensor:
        return torch.randn(num_samples, self.size, generator=generator, device=generator.device)

    def to_environment(self, sample: Tensor) -> Tensor:
        return sample.clamp(-1, 1)


class CategoricalHead(SoftHead):
    """Discrete actions, with each task's illegal ones masked."""

    def __init__(self, spec: SuiteSpec):
        super().__init__()
        assert isinstance(spec.action_space, gym.spaces.Discrete)
        self.size = int(spec.action_space.n)
        self.num_tasks = spec.num_tasks
        self.num_outputs = self.size
        self.critic_action_inputs = 0
        self.critic_outputs = self.size
        mask = np.ones((spec.num_tasks, self.size), bool) if spec.action_mask is None else spec.action_mask
        self.mask: Tensor
        self.register_buffer("mask", torch.from_numpy(mask.copy()), persistent=False)

    def distribution(self, outputs: Tensor, task_ids: Tensor) -> MaskedCategorical:
        return MaskedCategorical(torch.where(self.mask[task_ids], outputs, torch.finfo(outputs.dtype).min))

    def sample_noise(self, num_samples: int, generator: torch.Generator) -> Tensor:
        return torch.rand(num_samples, self.size, generator=generator, device=generator.device)

    def random_action(self, task_ids: Tensor, generator: torch.Generator) -> Tensor:
        uniform = MaskedCategorical(torch.where(self.mask[task_ids], 0.0, torch.finfo(torch.float32).min))
        return uniform.sample(self.sample_noise(len(task_ids), generator))

    def critic_input(self, features: Tensor, action: Tensor | None) -> Tensor:
        return features

    def chosen_values(self, values: Tensor, action: Tensor) -> Tensor:
        return values.gather(-1, action.view(1, -1, 1).expand(values.shape[0], -1, 1)).squeeze(-1)

    def target_entropy(self, scale: float | None) -> Tensor:
        """scale log(legal actions), scale 0.89 by default (the paper's 0.98 is near uniform)."""
        return (0.89 if scale is None else scale) * self.mask.sum(1).log()


def make_soft_head(spec: SuiteSpec) -> SoftHead:
    """The head that SAC uses on the suite's action space."""
    return CategoricalHead(spec) if isinstance(spec.action_space, gym.spaces.Discrete) else SquashedGaussianHead(spec)


def make_policy_gradient_head(spec: SuiteSpec, initial_log_std: float = 0.0) -> ActionHead:
    """The head that PPO uses on the suite's action space; `initial_log_std` is of continuous actions."""
    if isinstance(spec.action_space, gym.spaces.Discrete):
        return CategoricalHead(spec)
    return GaussianHead(spec, initial_log_std)


def _box_size(spec: SuiteSpec) -> int:
    """Action dimensions of a suite whose actions lie in [-1, 1]^A. Raises ValueError for other bounds."""
    space = spec.action_space
    assert isinstance(space, gym.spaces.Box)
    if not (np.all(space.low == -1) and np.all(space.high == 1)):
        raise ValueError(f"suite {spec.name!r}: continuous actions must be bounded by -1 and 1")
    return int(np.prod(space.shape))
