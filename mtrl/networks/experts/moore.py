"""Mixture of orthogonal experts (MOORE; Hendawy et al., 2024, arXiv:2311.11385).

K experts give K representations of the observation; Gram-Schmidt makes them orthonormal at every observation, each
task weighs them, and a head per task reads tanh(sum_k w_ik v_k(s)), the multi-head form of the paper. Experts are
MLPs with a linear last layer. The Gram-Schmidt of the paper divides by the norm; here a small number is added
under the root (relative to the largest expert's norm), so that experts that agree give a short vector and finite
gradients.
Shapes: B batch, K experts, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import Experts, TaskHeads, float32_island, mix, task_rows


@architectures.register("moore")
class MOORE(PolicyArchitecture):
    """Shared experts made orthogonal at every observation, weighed by each task, and a linear head per task."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, Field(ge=1)] = 400  # units per layer of an expert
        depth: Annotated[int, Field(ge=1)] = 3  # layers of an expert, the last without ReLU
        num_experts: Annotated[int, Field(ge=1)] = 4  # the paper has 4 on MT10, 6 on MT50

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.num_tasks = num_tasks
        self.experts = Experts(config.num_experts, [in_features] + config.depth * [config.width])
        self.weights = nn.Parameter(torch.randn(num_tasks, config.num_experts))
        self.heads = TaskHeads(config.width, out_features, num_tasks)

    def forward(self, features: Tensor, task_ids: Tensor) -> Output:
        """features (B, in_features), task_ids (B,) int64 -> (B, out_features); diagnostics: the task's weights."""
        weights = task_rows(self.weights, task_ids)
        mixed = mix(weights, float32_island(orthonormalized, self.experts(features))).tanh()
        return Output(self.heads(mixed, task_ids), mixed, diagnostics={"expert_weights": weights.detach()})


def orthonormalized(vectors: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Gram-Schmidt over the K vectors of each row, in their order: (B, K, d) -> (B, K, d)."""
    # In units of the row's longest vector: observations of any size then leave no square that overflows.
    longest = vectors.detach().norm(dim=-1, keepdim=True).amax(1, keepdim=True)
    first, *others = (vectors / longest.clamp(min=1e-30)).unbind(1)
    basis = _unit(first, epsilon).unsqueeze(1)
    for vector in others:
        along = torch.bmm(basis, vector.unsqueeze(-1))  # (B, k, 1)
        rest = vector - torch.bmm(along.transpose(1, 2), basis).squeeze(1)
        basis = torch.cat([basis, _unit(rest, epsilon).unsqueeze(1)], dim=1)
    return basis


def _unit(vector: Tensor, epsilon: float) -> Tensor:
    return vector * torch.rsqrt(vector.square().sum(-1, keepdim=True) + epsilon)
