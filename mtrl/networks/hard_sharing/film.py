"""Feature-wise linear modulation of a shared MLP by a task embedding (Perez et al., 2018, arXiv:1709.07871).

Every hidden layer gives relu((1 + gamma_i) * (W x + b) + beta_i), with gamma_i and beta_i linear in the embedding of
task i. The paper modulates convolutional features after a normalisation; here the layer's own outputs are modulated,
without one, and gamma is an offset from 1, as in the paper's code. Nothing else tells the network its task.
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
from mtrl.networks.layers import hidden_linear, one_hot, output_linear


@architectures.register("film")
class FiLM(PolicyArchitecture):
    """Shared hidden layers whose units each task scales and shifts."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, Field(ge=1)] = 400  # units per hidden layer
        depth: Annotated[int, Field(ge=1)] = 3  # hidden layers, all modulated
        embedding_size: Annotated[int, Field(ge=1)] = 64  # of a task

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.num_tasks = num_tasks
        sizes = [in_features] + config.depth * [config.width]
        self.embedding = nn.Embedding(num_tasks, config.embedding_size)
        self.modulators = nn.ModuleList(nn.Linear(config.embedding_size, 2 * width) for width in sizes[1:])
        self.layers = nn.ModuleList(hidden_linear(*pair) for pair in pairwise(sizes))
        self.head = output_linear(config.width, out_features)

    def forward(self, features: Tensor, task_ids: Tensor) -> Output:
        """features (B, in_features), task_ids (B,) int64 -> (B, out_features)."""
        own = one_hot(task_ids, self.num_tasks)
        for layer, modulator in zip(self.layers, self.modulators, strict=True):
            # Once per task, then spread over the rows as a product: cheaper than a modulator on every row.
            scale, shift = (own @ modulator(self.embedding.weight)).chunk(2, dim=-1)  # each (B, width)
            features = F.relu(torch.addcmul(shift, 1 + scale, layer(features)))
        return Output(self.head(features), features)
