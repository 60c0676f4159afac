"""A plain MLP that sees which task it plays: the baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import one_hot, output_linear, relu_layers


@architectures.register("mlp")
class MLP(PolicyArchitecture):
    """Hidden ReLU layers over the features and the task id, all parameters shared."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, Field(ge=1)] = 400  # units per hidden layer
        depth: Annotated[int, Field(ge=0)] = 3  # hidden layers
        layer_norm: bool = False  # before each ReLU; steadier where many updates are made per step
        task_input: Literal["one-hot", "embedding", "none"] = "one-hot"  # how the task enters
        embedding_size: Annotated[int, Field(ge=1)] = 64  # used by task_input=embedding

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.num_tasks = num_tasks
        self.task_input = config.task_input
        task_features = {"one-hot": num_tasks, "embedding": config.embedding_size, "none": 0}[config.task_input]
        if config.task_input == "embedding":
            self.embedding = nn.Embedding(num_tasks, config.embedding_size)
        self.trunk = relu_layers([in_features + task_features] + config.depth * [config.width], config.layer_norm)
        self.head = output_linear(config.width if config.depth else in_features + task_features, out_features)

    def forward(self, features: Tensor, task_ids: Tensor) -> Output:
        """features (B, in_features), task_ids (B,) int64 -> (B, out_features)."""
        if self.task_input == "one-hot":
            features = torch.cat([features, one_hot(task_ids, self.num_tasks)], dim=-1)
        elif self.task_input == "embedding":
            features = torch.cat([features, self.embedding(task_ids)], dim=-1)
        representation = self.trunk(features)
        return Output(self.head(representation), representation)
