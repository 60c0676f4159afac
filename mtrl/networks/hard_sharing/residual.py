"""A residual network with layer normalisation and a task embedding, as BRC's (Nauman et al., 2025, arXiv:2505.23150).

    x = relu(LN(W [features, e_i])),    x <- x + LN(W'' relu(LN(W' x)))  per block,    output = w x

is BroNet (Nauman et al., 2024, arXiv:2405.16158); e_i is the embedding of task i, of length 1. All of it is shared, so
that its size hardly grows with the number of tasks, also where the output is wide, as that of a categorical critic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import Float32LayerNorm, hidden_linear, output_linear, relu_layers, task_rows


class ResidualBlock(nn.Module):
    """x + LN(W'' relu(LN(W' x)))."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            relu_layers([width, width], layer_norm=True), hidden_linear(width, width), Float32LayerNorm(width)
        )

    def forward(self, values: Tensor) -> Tensor:
        """(B, width) -> (B, width)."""
        return values + self.layers(values)


@architectures.register("residual")
class Residual(PolicyArchitecture):
    """Residual blocks over the features and a task embedding, all parameters shared."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, Field(ge=1)] = 256  # units per layer
        depth: Annotated[int, Field(ge=0)] = 2  # blocks of two layers
        critic_width: Annotated[int, Field(ge=1)] | None = None  # width of value and Q networks; None: the same
        embedding_size: Annotated[int, Field(ge=1)] = 32  # of a task

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.embedding = nn.Embedding(num_tasks, config.embedding_size)
        self.trunk = nn.Sequential(
            relu_layers([in_features + config.embedding_size, config.width], layer_norm=True),
            *(ResidualBlock(config.width) for _ in range(config.depth)),
        )
        self.head = output_linear(config.width, out_features)

    @classmethod
    def value_config(cls, config: Config) -> Config:
        return config if config.critic_width is None else replace(config, width=config.critic_width)

    def forward(self, features: Tensor, task_ids: Tensor) -> Output:
        """features (B, in_features), task_ids (B,) int64 -> (B, out_features)."""
        embedding = F.normalize(task_rows(self.embedding.weight, task_ids), dim=-1)
        representation = self.trunk(torch.cat([features, embedding], dim=-1))
        return Output(self.head(representation), representation)
