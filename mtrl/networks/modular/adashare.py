"""AdaShare (Sun et al., 2020, arXiv:1911.12423): every task learns which of the shared residual blocks it executes.

x <- x + u_il relu(W_l x + b_l), u_il a Bernoulli choice of probability a_il per task and block, sampled anew for every
row as a straight-through Gumbel-softmax (of two classes, so a logistic). Without noise the likelier choice is taken.
Both regularisers are auxiliary losses per task. Sparsity, sum_l -log(1 - a_il): the survey's `sum log a` has no lower
bound. Sharing, sum_l (L - l) / L * mean_j |a_il - a_jl|, lower blocks more; the paper sums over pairs of tasks, the
mean over the others makes the weight independent of their number. The paper's curriculum over blocks, its
warm-up and its retraining with fixed choices are left out; the choice is hard in training too.
Shapes: B batch, M tasks, L blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import TaskHeads, hidden_linear, task_rows


@architectures.register("adashare")
class AdaShare(PolicyArchitecture):
    """Shared residual blocks that each task learns to execute or to skip, and a linear head per task."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, Field(ge=1)] = 400  # units
        num_blocks: Annotated[int, Field(ge=1)] = 3  # residual blocks after the first layer
        temperature: Annotated[float, Field(gt=0)] = 1.0  # of the relaxation whose gradient is taken
        initial_probability: Annotated[float, Field(gt=0, lt=1)] = 0.9  # of executing a block
        sparsity: Annotated[float, Field(ge=0)] = 0.001  # weight of the penalty on executing blocks
        sharing: Annotated[float, Field(ge=0)] = 0.01  # weight of the penalty on choosing unlike other tasks

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.num_tasks = num_tasks
        self.noise_size = config.num_blocks
        self.temperature, self.sparsity, self.sharing = config.temperature, config.sparsity, config.sharing
        self.first = hidden_linear(in_features, config.width)
        self.blocks = nn.ModuleList(hidden_linear(config.width, config.width) for _ in range(config.num_blocks))
        start = math.log(config.initial_probability / (1 - config.initial_probability))
        self.logits = nn.Parameter(torch.full((num_tasks, config.num_blocks), start))
        self.heads = TaskHeads(config.width, out_features, num_tasks)

    def forward(self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None) -> Output:
        """features (B, in_features), task_ids (B,) int64, noise (B, L) uniform -> (B, out_features)."""
        logits = task_rows(self.logits, task_ids)
        choices = self.choose(logits, noise)
        values = self.first(features).relu()
        for block, chosen in zip(self.blocks, choices.unsqueeze(-1).unbind(1), strict=True):
            values = torch.addcmul(values, chosen, block(values).relu())
        return Output(
            self.heads(values, task_ids),
            values,
            losses=self.regularizers(),
            diagnostics={"execution_probability": logits.detach().sigmoid()},
        )

    def choose(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """1 to execute, 0 to skip, for logits (B, L), with the gradient of the relaxed choice."""
        if noise is None:
            return (logits > 0).float()
        noisy = logits + torch.logit(noise, eps=1e-6)
        relaxed = torch.sigmoid(noisy / self.temperature)
        return (noisy > 0).float() + (relaxed - relaxed.detach())

    def regularizers(self) -> dict[str, Tensor]:
        """Sparsity and sharing, each (M,)."""
        num_blocks = self.logits.shape[1]
        probability = self.logits.sigmoid()
        lower = 1 - torch.arange(num_blocks, device=probability.device) / num_blocks
        apart = (probability.unsqueeze(1) - probability).abs() @ lower  # (M, M)
        return {
            "sparsity": self.sparsity * F.softplus(self.logits).sum(1),  # -log(1 - sigmoid(z)) = softplus(z)
            "sharing": self.sharing * apart.sum(1) / max(self.num_tasks - 1, 1),
        }
