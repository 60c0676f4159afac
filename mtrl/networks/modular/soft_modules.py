"""Soft modularization (Yang et al., 2020, arXiv:2003.13661): modules, and a network that routes between them.

With f(s) the embedding of the observation, h(z) that of the task and phat the softmax of p over its last index:

    g = W_b relu(W_a relu(f * h)),    p_1 = W_1 relu(g),    p_{l+1} = W_{l+1} relu((U_l [phat_1, ..., phat_l]) * g)
    x_i^1 = W_i^1 relu(f),    x_i^{l+1} = W_i^{l+1} relu(sum_j phat_l[i, j] x_j^l),    y = W relu(sum_j phat_L[j] x_j^L)

Where paper and released code differ the code is followed: the ReLU stands outside the sum (`activation="inside"` is the
paper's), every routing step sees all earlier ones, a last routing vector mixes the last layer's modules, and weights
start as there: uniform within 1 / sqrt(outputs) of a layer with bias 0.1, routing layers and the head uniform within
3e-3, so that routing starts near uniform. Its weighting of the tasks by their temperatures is SAC's
`temperature_task_weights`, which this architecture switches on.
Shapes: B batch, n modules per layer, d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import ParallelLinear, mix, one_hot, output_linear


@architectures.register("soft-modules")
class SoftModules(PolicyArchitecture):
    """Modules mixed by a routing network that sees observation and task; the shallow form."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        num_layers: Annotated[int, Field(ge=1)] = 2  # layers of modules
        num_modules: Annotated[int, Field(ge=1)] = 2  # modules per layer
        width: Annotated[int, Field(ge=1)] = 256  # units per module
        embedding_size: Annotated[int, Field(ge=1)] = 400  # of observation and task
        gating_width: Annotated[int, Field(ge=1)] = 256  # units per layer of the routing network
        activation: Literal["outside", "inside"] = "outside"  # ReLU of the weighted sum, or of what is summed

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        size, n = config.embedding_size, config.num_modules
        self.num_tasks = num_tasks
        self.num_modules = n
        self.outside = config.activation == "outside"
        self.observation_embedding = nn.Sequential(
            nn.Linear(in_features, size), nn.ReLU(inplace=True), nn.Linear(size, size)
        )
        self.task_embedding = nn.Linear(num_tasks, size)
        self.gating = nn.Sequential(
            nn.ReLU(),
            nn.Linear(size, config.gating_width),
            nn.ReLU(inplace=True),
            nn.Linear(config.gating_width, config.gating_width),
        )
        later = range(1, config.num_layers)
        self.conditions = nn.ModuleList(nn.Linear(step * n * n, config.gating_width) for step in later)
        self.first = nn.Linear(size, n * config.width)  # all modules of the first layer see relu(f)
        self.layers = nn.ModuleList(ParallelLinear(n, config.width, config.width) for _ in later)
        self.apply(_initialize)
        bound = config.width**-0.5  # n layers in one, each with `width` outputs
        nn.init.uniform_(self.first.weight, -bound, bound)
        # The last step has one target, the head, instead of n modules.
        targets = [*(n for _ in later), 1]
        self.routers = nn.ModuleList(output_linear(config.gating_width, rows * n, bound=3e-3) for rows in targets)
        self.head = output_linear(config.width, out_features, bound=3e-3)

    @classmethod
    def preset(cls, agent: str) -> Mapping[str, Any]:
        """The published weighting of the tasks by their temperatures."""
        return {"agent": {"temperature_task_weights": True}} if agent == "sac" else {}

    def forward(self, features: Tensor, task_ids: Tensor) -> Output:
        """features (B, in_features), task_ids (B,) int64 -> (B, out_features); diagnostics: routing, rows sum to 1."""
        f = self.observation_embedding(features)
        g = self.gating(f * self.task_embedding(one_hot(task_ids, self.num_tasks)))
        routing = self.route(g)
        modules = self.first(F.relu(f)).unflatten(-1, (self.num_modules, -1))  # (B, n, d)
        for weights, layer in zip(routing, self.layers, strict=False):
            modules = layer(self._mixed(weights, modules))
        representation = self._mixed(routing[-1], modules).squeeze(1)
        diagnostics = {f"routing_{step}": weights.detach() for step, weights in enumerate(routing, start=1)}
        return Output(self.head(representation), representation, diagnostics=diagnostics)

    def route(self, g: Tensor) -> list[Tensor]:
        """Gating input (B, gating_width) -> softmaxed matrices (B, n, n), target by source, and a last (B, 1, n)."""
        first, *later = self.routers
        routing = [self._weights(first, g)]
        for condition, router in zip(self.conditions, later, strict=True):
            earlier = torch.cat([weights.flatten(1) for weights in routing], dim=-1)
            routing.append(self._weights(router, condition(earlier) * g))
        return routing

    def _weights(self, router: nn.Module, gate: Tensor) -> Tensor:
        return F.softmax(router(F.relu(gate)).unflatten(-1, (-1, self.num_modules)), dim=-1)

    def _mixed(self, weights: Tensor, modules: Tensor) -> Tensor:
        """relu(sum_j phat_ij x_j) for every target i, or with the ReLU inside the sum."""
        return F.relu(mix(weights, modules)) if self.outside else mix(weights, F.relu(modules))


@architectures.register("soft-modules-deep")
class DeepSoftModules(SoftModules):
    """The deep form of soft modularization: four layers of four modules of 128 units."""

    @dataclass(frozen=True, kw_only=True)
    class Config(SoftModules.Config):
        num_layers: Annotated[int, Field(ge=1)] = 4  # layers of modules
        num_modules: Annotated[int, Field(ge=1)] = 4  # modules per layer
        width: Annotated[int, Field(ge=1)] = 128  # units per module


def _initialize(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear | ParallelLinear):
        # The released code takes the first dimension of torch's (out, in) weights for the number of inputs.
        out_features = layer.bias.shape[-1]
        nn.init.uniform_(layer.weight, -(out_features**-0.5), out_features**-0.5)
        nn.init.constant_(layer.bias, 0.1)
