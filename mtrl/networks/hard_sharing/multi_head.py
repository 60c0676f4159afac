"""A shared trunk with one linear head per task (Yu et al., 2019, arXiv:1910.10897: multi-task multi-head SAC).

As in the published baselines the trunk sees the one-hot task id too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import TaskHeads, one_hot, relu_layers


@architectures.register("multi-head")
class MultiHead(PolicyArchitecture):
    """Shared hidden ReLU layers and one linear head per task."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, Field(ge=1)] = 400  # units per hidden layer
        depth: Annotated[int, Field(ge=1)] = 3  # hidden layers, shared by all tasks
        layer_norm: bool = False  # before each ReLU; steadier where many updates are made per step

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.num_tasks = num_tasks
        self.trunk = relu_layers([in_features + num_tasks] + config.depth * [config.width], config.layer_norm)
        self.heads = TaskHeads(config.width, out_features, num_tasks)

    def forward(self, features: Tensor, task_ids: Tensor) -> Output:
        """features (B, in_features), task_ids (B,) int64 -> (B, out_features)."""
        features = torch.cat([features, one_hot(task_ids, self.num_tasks)], dim=-1)
        representation = self.trunk(features)
        return Output(self.heads(representation, task_ids), representation)
