"""Contextual attention-based representation (CARE; Sodhani et al., 2021, arXiv:2102.06177).

K encoders read the observation; a context, made of what is known of the task, attends to them, and a policy network
reads the encoding sum_k a_k(c) e_k(s) beside the context c. The paper's context comes from a language model's embedding
of the task's description; suites here have none, so a learned embedding of the task takes its place, and a two-layer
context encoder follows it as in the paper. Attention is a softmax of a small MLP of the context.
Shapes: B batch, K encoders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import Experts, hidden_linear, mix, one_hot, output_linear, relu_layers


@architectures.register("care")
class CARE(PolicyArchitecture):
    """A mixture of encoders that the task attends to, and a shared network on the encoding and the task's context."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, Field(ge=1)] = 400  # units per hidden layer
        depth: Annotated[int, Field(ge=1)] = 3  # hidden layers after the encoders
        num_encoders: Annotated[int, Field(ge=1)] = 6  # in the mixture
        encoding_size: Annotated[int, Field(ge=1)] = 50  # of an encoder's two layers, and of the context
        embedding_size: Annotated[int, Field(ge=1)] = 64  # of a task

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        size = config.encoding_size
        self.num_tasks = num_tasks
        self.encoders = Experts(config.num_encoders, [in_features, size, size])
        self.embedding = nn.Embedding(num_tasks, config.embedding_size)
        self.context = nn.Sequential(relu_layers([config.embedding_size, size]), nn.Linear(size, size))
        self.attention = nn.Sequential(hidden_linear(size, size), nn.ReLU(), nn.Linear(size, config.num_encoders))
        self.trunk = relu_layers([2 * size] + config.depth * [config.width])
        self.head = output_linear(config.width, out_features)

    def forward(self, features: Tensor, task_ids: Tensor) -> Output:
        """features (B, in_features), task_ids (B,) int64 -> (B, out_features); diagnostics: attention, sums to 1."""
        # Context and attention know the task alone: once per task, then spread over the rows.
        context = self.context(self.embedding.weight)
        attention = F.softmax(self.attention(context), dim=-1)
        own = one_hot(task_ids, self.num_tasks)
        attention, context = own @ attention, own @ context
        encoding = mix(attention, self.encoders(features))
        representation = self.trunk(torch.cat([encoding, context], dim=-1))
        return Output(self.head(representation), representation, diagnostics={"attention": attention.detach()})
