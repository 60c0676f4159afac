"""Distral: task policies are drawn to a common one, which is distilled from them (Teh et al., 2017, arXiv:1707.04175).

The objective (equation 1) is the return of the regularised reward

    r + (a/b) log pi_0(a|s) - (1/b) log pi_i(a|s),    a = c_KL / (c_KL + c_Ent), b = 1 / (c_KL + c_Ent),

so log pi_i costs c_Ent = (1 - a)/b, and log pi_i - log pi_0 costs c_KL = a/b. Both are fixed: SAC learns no
temperature and PPO gives no entropy bonus. a = 1 is the paper's "KL only". SAC pays the expectation, whose second part
is c_KL KL(pi_i || pi_0), exactly; PPO pays for what it sampled.

pi_0 sees no task. It is distilled: the gradient of c_KL E[log pi_0] under fixed pi_i, which is that of -c_KL
KL(sg(pi_i) || pi_0) and is taken so, an auxiliary loss for either agent. In what pi_i is charged, pi_0 is fixed.

One column: pi_i is the task column. Two columns: pi_i in proportion to pi_0^a f_i^b, so that the common column learns
from the tasks' returns too. For logits that is a h_0 + b f_i. Continuous actions, which the paper does not have, get
the product of Gaussians, before the tanh if there is one: precision a/s_0^2 + b/s_f^2, precision-weighted mean. It is
about b times as narrow in variance as its factors: a wider start is PPO's `initial_log_std`, and SAC's to learn; where
b is large, one column is the better choice.

A nat costs 1/b per step. That is to be small beside the rewards of a step in the normaliser's units, which under PopArt
are fractions of the deviation of whole returns: there b is in the hundreds, where plain rewards of order 1 want 10.

Columns are of the architecture of the run: the common one is made for one task, the task column for all of them, and
how task policies share parameters is the architecture's to say. The paper's share none: `separate`.

Where columns choose routes, the routes of both are part of the action, since the charge depends on both.

Shapes: B batch, F features, M tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtrl.aggregation import mean_per_task
from mtrl.networks.architecture import Output, run
from mtrl.policies.distributions import detached
from mtrl.policies.heads import ActionHead
from mtrl.policies.policy import MakeArchitecture, Policy, PolicyOutput, policies


@dataclass(frozen=True)
class RegularizedOutput(PolicyOutput):
    """A policy that is charged for leaving another one, `prior`, which is outside the graph."""

    prior: Any
    temperature: float  # c_Ent
    kl_weight: float  # c_KL

    def charge(self, sample: Tensor) -> Tensor:
        log_prob = self.distribution.log_prob(sample)
        return self.temperature * log_prob + self.kl_weight * (log_prob - self.prior.log_prob(sample))

    def expected_charge(self, log_prob: Tensor, temperature: Tensor) -> Tensor:
        return temperature * log_prob + self.kl_weight * self.distribution.kl_divergence(self.prior)


@policies.register("distral")
class Distral(Policy):
    """Task policies drawn to a common one, which is distilled from them."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        num_columns: Literal[1, 2] = 2  # 1: task policies apart from the common one; 2: corrections to it
        distral_alpha: Annotated[float, Field(gt=0, le=1)] = 0.5  # c_KL / (c_KL + c_Ent); 1: KL only
        distral_beta: Annotated[float, Field(gt=0)] = 10.0  # 1 / (c_KL + c_Ent), c in units of the normaliser

    def __init__(self, make_architecture: MakeArchitecture, in_features: int, head: ActionHead, config: Config):
        super().__init__(make_architecture, in_features, head, config)
        self.num_columns, self.alpha, self.beta = config.num_columns, config.distral_alpha, config.distral_beta
        self.temperature: float = (1 - self.alpha) / self.beta
        self.kl_weight = self.alpha / self.beta
        self.common = make_architecture(in_features, head.num_outputs, num_tasks=1)
        self.common_head = head.for_all_tasks()
        self.task = make_architecture(in_features, head.num_outputs)
        self.draw_size = self.common.draw_size + self.task.draw_size
        self.route_size = self.common.route_size + self.task.route_size

    def forward(self, features: Tensor, task_ids: Tensor, draw: Tensor | None = None) -> PolicyOutput:
        of_common, of_task = self._split(draw)
        common = run(self.common, features, torch.zeros_like(task_ids), of_common)
        task = run(self.task, features, task_ids, of_task)
        prior = self.common_head.distribution(common.values, task_ids)
        policy = self.head.distribution(task.values, task_ids)
        if self.num_columns == 2:
            policy = prior.power_product(self.alpha, policy, self.beta)
        divergence = detached(policy).kl_divergence(prior)
        distillation = self.kl_weight * mean_per_task(divergence, task_ids, self.head.num_tasks)
        network = self._said(common, task, {"distillation": distillation}, {"kl": divergence.detach()})
        return RegularizedOutput(policy, network, detached(prior), self.temperature, self.kl_weight)

    def _split(self, draw: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What belongs to the common and to the task column of noise, or of choices to make again."""
        if draw is None:
            return None, None
        size = self.common.draw_size if draw.is_floating_point() else self.common.route_size
        return draw[:, :size], draw[:, size:]

    def _said(
        self, common: Output, task: Output, losses: Mapping[str, Tensor], diagnostics: Mapping[str, Tensor]
    ) -> Output:
        """`losses`, `diagnostics` and what the columns say beside their values, the common one as `common_NAME`."""
        routes = [column.route for column in (common, task) if column.route is not None]
        common_losses = {f"common_{name}": loss.expand(self.head.num_tasks) for name, loss in common.losses.items()}
        common_diagnostics = {f"common_{name}": values for name, values in common.diagnostics.items()}
        return Output(
            task.values,
            route=torch.cat(routes, dim=-1) if routes else None,
            route_log_prob=_sum(common.route_log_prob, task.route_log_prob),
            route_entropy=_sum(common.route_entropy, task.route_entropy),
            losses={**task.losses, **common_losses, **losses},
            diagnostics={**task.diagnostics, **common_diagnostics, **diagnostics},
        )


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return second if first is None else first if second is None else first + second
