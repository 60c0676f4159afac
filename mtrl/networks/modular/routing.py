"""Routing networks (Rosenbaum et al., 2017, arXiv:1711.01239): at every depth a router picks the block that comes next.

    x_0 = relu(W x),    x_d = relu(W_n x_{d-1} + b_n) for the choice n,  or x_d = x_{d-1} for the choice "pass"

The blocks serve at every depth; what brings the features to their width, and the head, are all tasks' alike: a task
enters through the choices alone. Without noise the most likely ones are taken. A router learns in one of three ways:
`reinforce`, the route being part of the action (its log-probability and entropy are the agent's to use); `wpl`, the
same by another rule (`WeightedPolicyLearner`); or `gumbel`, Gumbel noise on the log-probabilities and straight through
the gradient of their softmax. Value and Q networks, which have no action, always learn by `gumbel`.

`diversity` counters collapse, where a task uses few of the blocks (after Cases et al., 2019): it rewards the entropy of
a task's choices, their probabilities averaged over samples and depths. `commitment` counters the opposite, choices that
stay near uniform, so that the most likely route is hardly what was learned: it penalises the entropy of single choices.

Blocks are computed densely and picked by a one-hot product. Shapes: B batch, M tasks, L depths, K choices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import gumbel, hidden_linear, mix, one_hot, output_linear
from mtrl.networks.modular.routers import Router, SharedRouter, SoftmaxTable, TabularRouter, WeightedPolicyLearner
from mtrl.per_task import mean_per_task


@architectures.register("routing")
class Routing(PolicyArchitecture):
    """Shared blocks, of which a router picks one at each depth for each task."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, Field(ge=1)] = 256  # units per block
        depth: Annotated[int, Field(ge=1)] = 3  # choices in a row
        num_modules: Annotated[int, Field(ge=1)] = 4  # blocks to choose from
        pass_block: bool = True  # whether a depth may be passed over
        router: Literal["tabular", "shared"] = "tabular"  # a table per task, or a network of features, task and depth
        router_width: Annotated[int, Field(ge=1)] = 64  # hidden units of the shared router
        learning: Literal["gumbel", "reinforce", "wpl"] = "gumbel"  # how the policy's router learns
        temperature: Annotated[float, Field(gt=0)] = 1.0  # of the softmax whose gradient gumbel takes
        table_spread: Annotated[float, Field(ge=0)] = 2.0  # std of a table's first logits; 0: uniform choices
        table_rate: Annotated[float, Field(gt=0)] = 100.0  # of a table's logits, in learning rates of the agent
        wpl_rate: Annotated[float, Field(gt=0)] = 0.05  # step of wpl's probabilities along their gradient
        collaboration: Annotated[float, Field(ge=0)] = 0.0  # reward of choosing blocks by their share of all use
        diversity: Annotated[float, Field(ge=0)] = 0.0  # weight of the entropy of each task's use of blocks
        commitment: Annotated[float, Field(ge=0)] = 0.003  # penalty on the entropy of single choices, per nat

        def __post_init__(self) -> None:
            if self.router != "tabular" and self.learning == "wpl":
                raise ValueError(f"learning 'wpl' moves the probabilities of a table; router is {self.router!r}")
            # The losses of a task may see its own rows alone, and only a table knows what the others choose.
            if self.router != "tabular" and self.collaboration:
                raise ValueError(f"collaboration is between the routers of tasks; router {self.router!r} is only one")

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.num_tasks, self.depth, self.num_blocks = num_tasks, config.depth, config.num_modules
        self.num_choices = config.num_modules + config.pass_block
        self.relaxed, self.temperature = config.learning == "gumbel", config.temperature
        self.collaboration, self.diversity, self.commitment = config.collaboration, config.diversity, config.commitment
        self.noise_size = config.depth * self.num_choices
        self.route_size = 0 if self.relaxed else config.depth
        self.first = hidden_linear(in_features, config.width)
        self.blocks = hidden_linear(config.width, config.num_modules * config.width)  # one product gives all
        self.router = self._make_router(config)
        self.head = output_linear(config.width, out_features)

    def _make_router(self, config: Config) -> Router:
        sizes = self.num_tasks, self.depth, self.num_choices
        if config.router == "shared":
            return SharedRouter(config.width, *sizes, config.router_width)
        if config.learning == "wpl":
            return WeightedPolicyLearner(*sizes, config.wpl_rate)
        return SoftmaxTable(*sizes, config.table_rate, config.table_spread)

    @classmethod
    def value_config(cls, config: Config) -> Config:
        return replace(config, learning="gumbel")

    def forward(
        self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None, route: Tensor | None = None
    ) -> Output:
        """features (B, in_features), task_ids (B,), noise (B, L * K) uniform, route (B, L) -> (B, out_features)."""
        values = self.first(features).relu()
        all_log_probs, all_choices = [], []
        noise = None if noise is None else noise.unflatten(-1, (self.depth, -1))  # (B, L, K)
        for depth in range(self.depth):
            log_probs = self.router(values, task_ids, depth)
            if route is None:
                choice = self.choose(log_probs, None if noise is None else noise[:, depth])
            else:
                choice = one_hot(route[:, depth], self.num_choices)
            values = self._chosen(choice, values)
            all_log_probs.append(log_probs)
            all_choices.append(choice)
        log_probs, choices = torch.stack(all_log_probs, dim=1), torch.stack(all_choices, dim=1)  # (B, L, K)
        output = Output(
            self.head(values),
            values,
            losses=self._losses(log_probs, task_ids),
            diagnostics={
                "choice": choices.detach(),
                "use_entropy": self.use_entropy(choices.detach(), task_ids)[task_ids],
            },
        )
        if self.relaxed:
            return output
        return replace(
            output,
            route=choices.argmax(-1),
            route_log_prob=(choices * log_probs).sum((1, 2)),
            route_entropy=-(log_probs.exp() * log_probs).sum((1, 2)),
        )

    def choose(self, log_probs: Tensor, noise: Tensor | None) -> Tensor:
        """One-hot choices (B, K) of log-probabilities (B, K) and uniform noise (B, K); without it the most likely."""
        noisy = log_probs if noise is None else log_probs + gumbel(noise)
        choice = one_hot(noisy.argmax(-1), self.num_choices)
        if not self.relaxed:
            return choice
        relaxed = F.softmax(noisy / self.temperature, dim=-1)
        return choice + (relaxed - relaxed.detach())

    def use_entropy(self, weights: Tensor, task_ids: Tensor) -> Tensor:
        """Entropy (M,) in nats of what each task uses: weights (B, L, K) averaged over its rows and depths."""
        use = mean_per_task(weights.mean(1), task_ids, self.num_tasks)
        return -(use * use.clamp(min=1e-8).log()).sum(-1)

    def _chosen(self, choice: Tensor, values: Tensor) -> Tensor:
        """What the chosen block gives; a choice beyond the blocks passes the values on."""
        blocks = self.blocks(values).relu().unflatten(-1, (self.num_blocks, -1))
        picked = mix(choice[:, : self.num_blocks], blocks)
        return picked + choice[:, self.num_blocks :].sum(-1, keepdim=True) * values

    def _losses(self, log_probs: Tensor, task_ids: Tensor) -> dict[str, Tensor]:
        losses = {}
        if self.diversity:
            losses["diversity"] = -self.diversity * self.use_entropy(log_probs.exp(), task_ids)
        if self.commitment:
            undecided = -(log_probs.exp() * log_probs).sum(-1).mean(1)
            losses["commitment"] = self.commitment * mean_per_task(undecided, task_ids, self.num_tasks)
        if self.collaboration:
            assert isinstance(self.router, TabularRouter)
            losses["collaboration"] = -self.collaboration * self.router.collaboration(self.num_blocks)
        return losses
