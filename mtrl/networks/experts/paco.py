"""Parameter-compositional networks (PaCo; Sun et al., 2022, arXiv:2210.11653): theta_i = Phi w_i.

Every weight and bias of the network is a combination of K shared parameter sets by the task's K numbers w_i. Rows come
in any order, so no task's weights are put together; by linearity W_i x = sum_k w_ik (W_k x), one product of the inputs
scaled by each w_ik with the K sets stacked: K times the work of one network. Here w starts as
random directions of length one, so that composed weights start at the scale of one set's. Left out is the paper's reset
of the w of a task whose loss explodes: a network does not see losses. Shapes: B batch, K parameter sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import float32_island, task_rows


class ComposedLinear(nn.Module):
    """A linear layer whose parameters are row-wise combinations of K sets."""

    def __init__(self, num_sets: int, in_features: int, out_features: int, bound: float, bias_bound: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_sets, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_sets, out_features).uniform_(-bias_bound, bias_bound))

    def forward(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """inputs (B, in_features), weights (B, K) -> (B, out_features)."""
        scaled = (weights.unsqueeze(-1) * inputs.unsqueeze(1)).flatten(1)  # (B, K * in_features)
        return torch.addmm(weights @ self.bias, scaled, self.weight.flatten(0, 1))


@architectures.register("paco")
class PaCo(PolicyArchitecture):
    """An MLP whose parameters each task composes from a few shared sets."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, Field(ge=1)] = 400  # units per hidden layer
        depth: Annotated[int, Field(ge=1)] = 3  # hidden layers
        num_sets: Annotated[int, Field(ge=1)] = 5  # shared parameter sets; the paper has 5 on MT10, 20 on MT50

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.num_tasks = num_tasks
        sizes = [in_features] + config.depth * [config.width]
        self.layers = nn.ModuleList(
            ComposedLinear(config.num_sets, below, above, bound=(6 / below) ** 0.5) for below, above in pairwise(sizes)
        )
        self.head = ComposedLinear(config.num_sets, config.width, out_features, bound=1e-3, bias_bound=1e-3)
        self.composition = nn.Parameter(F.normalize(torch.randn(num_tasks, config.num_sets), dim=-1))

    def forward(self, features: Tensor, task_ids: Tensor) -> Output:
        """features (B, in_features), task_ids (B,) int64 -> (B, out_features); diagnostics: composition (B, K)."""
        weights = task_rows(self.composition, task_ids)
        for layer in self.layers:
            features = layer(features, weights).relu()
        return Output(
            float32_island(self.head, features, weights), features, diagnostics={"composition": weights.detach()}
        )
