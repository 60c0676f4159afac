"""Distral: task policies regularized towards a common policy, which is distilled from them (Teh et al., 2017,
arXiv:1707.04175).

The objective (equation 1) is the return of the regularized reward

    r + (a/b) log pi_0(a|s) - (1/b) log pi_i(a|s),    a = c_KL / (c_KL + c_Ent), b = 1 / (c_KL + c_Ent),

so c_Ent = (1 - a)/b is the entropy coefficient and c_KL = a/b the KL coefficient. Both are fixed: SAC learns no
temperature and PPO adds no entropy bonus. a = 1 is the paper's "KL only". SAC subtracts the expectation, whose second
part is c_KL KL(pi_i || pi_0), exactly; PPO subtracts the value of the sampled action.

pi_0 does not see the task. It is distilled: the gradient of c_KL E[log pi_0] under fixed pi_i is that of -c_KL
KL(sg(pi_i) || pi_0), an auxiliary loss for either agent. In the regularization of pi_i, pi_0 is fixed.

One column: pi_i is the task column. Two columns: pi_i is proportional to pi_0^a f_i^b, so that the common column learns
from the tasks' returns too. For logits that is a h_0 + b f_i. For continuous actions, which the paper does not have, it
is the product of Gaussians, before the tanh if there is one: precision a/s_0^2 + b/s_f^2, precision-weighted mean. Its
variance is about b times smaller than that of its factors: PPO's `initial_log_std` sets a wider start, SAC learns it;
where b is large, one column is the better choice.

The coefficients are per step and in reward units, with PopArt too, and should be small beside the rewards of a step:
b of about 10 suits rewards of order 1. With `return-scale`, which divides the rewards, they are in units of its scale.

Both columns are of the run's architecture: the common one is made for one task, the task column for all of them, and
how task policies share parameters is up to the architecture. The paper's share none: `separate`.

Where columns choose routes, the routes of both are part of the action, since the regularization depends on both.

Shapes: B batch, F features, M tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtrl.networks.architecture import Output, run
from mtrl.policies.distributions import detached
from mtrl.policies.heads import ActionHead
from mtrl.policies.policy import MakeArchitecture, Policy, PolicyOutput, policies


@dataclass(frozen=True)
class RegularizedOutput(PolicyOutput):
    """A policy regularized towards another one, `prior`, which is distilled from it."""

    prior: Any
    divergence: Tensor  # KL(pi_i || pi_0) (B,), pi_i outside the graph
    temperature: float  # c_Ent
    kl_weight: float  # c_KL

    def regularization(self, sample: Tensor) -> Tensor:
        # c_Ent log pi_i + c_KL (log pi_i - log pi_0)
        log_prob = self.distribution.log_prob(sample)
        return self.temperature * log_prob + self.kl_weight * (log_prob - detached(self.prior).log_prob(sample))

    def expected_regularization(self, log_prob: Tensor, temperature: Tensor) -> Tensor:
        # c_Ent E[log pi_i] + c_KL KL(pi_i || pi_0)
        return temperature * log_prob + self.kl_weight * self.distribution.kl_divergence(detached(self.prior))

    def distillation(self) -> Tensor:
        return self.kl_weight * self.divergence


@policies.register("distral")
class Distral(Policy):
    """Task policies regularized towards a common policy, which is distilled from them."""

    parts: Sequence[str] = ("common",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        num_columns: Literal[1, 2] = 2  # 1: task policies apart from the common one; 2: corrections to it
        distral_alpha: Annotated[float, Field(gt=0, le=1)] = 0.5  # c_KL / (c_KL + c_Ent); 1: KL only
        distral_beta: Annotated[float, Field(gt=0)] = 10.0  # 1 / (c_KL + c_Ent), c in reward units

    def __init__(self, make_architecture: MakeArchitecture, in_features: int, head: ActionHead, config: Config):
        super().__init__(make_architecture, in_features, head, config)
        self.num_columns, self.alpha, self.beta = config.num_columns, config.distral_alpha, config.distral_beta
        self.temperature: float = (1 - self.alpha) / self.beta
        self.kl_weight = self.alpha / self.beta
        self.common = make_architecture(in_features, head.num_outputs, num_tasks=1)
        self.common_head = head.for_all_tasks()
        self.task = make_architecture(in_features, head.num_outputs)
        self.noise_size = self.common.noise_size + self.task.noise_size
        self.route_size = self.common.route_size + self.task.route_size

    def forward(
        self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None, route: Tensor | None = None
    ) -> PolicyOutput:
        common_noise, task_noise = _split(noise, self.common.noise_size)
        common_route, task_route = _split(route, self.common.route_size)
        common = run(self.common, features, torch.zeros_like(task_ids), common_noise, common_route)
        prior = self.common_head.distribution(common.values, task_ids)
        if self.played == "common":
            return PolicyOutput(prior, common)
        task = run(self.task, features, task_ids, task_noise, task_route)
        policy = self.head.distribution(task.values, task_ids)
        if self.num_columns == 2:
            policy = prior.power_product(self.alpha, policy, self.beta)
        divergence = detached(policy).kl_divergence(prior)
        network = self._joined(common, task, {"kl": divergence.detach()})
        return RegularizedOutput(policy, network, prior, divergence, self.temperature, self.kl_weight)

    def _joined(self, common: Output, task: Output, diagnostics: Mapping[str, Tensor]) -> Output:
        """The task column's output with the common column's routes, losses and diagnostics (`common_NAME`)."""
        routes = [column.route for column in (common, task) if column.route is not None]
        common_losses = {f"common_{name}": loss.expand(self.head.num_tasks) for name, loss in common.losses.items()}
        common_diagnostics = {f"common_{name}": values for name, values in common.diagnostics.items()}
        return Output(
            task.values,
            task.representation,
            route=torch.cat(routes, dim=-1) if routes else None,
            route_log_prob=_sum(common.route_log_prob, task.route_log_prob),
            route_entropy=_sum(common.route_entropy, task.route_entropy),
            losses={**task.losses, **common_losses},
            diagnostics={**task.diagnostics, **common_diagnostics, **diagnostics},
        )


def _split(values: Tensor | None, size: int) -> tuple[Tensor | None, Tensor | None]:
    """The common column's `size` columns of noise or routes, and the task column's."""
    return (None, None) if values is None else (values[:, :size], values[:, size:])


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return second if first is None else first if second is None else first + second
