"""A network per task and nothing in common: what sharing is compared with, and the task policies of Distral's paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtrl.networks.architecture import PolicyArchitecture, architectures
from mtrl.networks.layers import output_linear, relu_layers


@architectures.register("separate")
class Separate(PolicyArchitecture):
    """One MLP per task; tasks share no parameter."""

    works_under_vmap = False  # the samples of a task are found by counting

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, Field(ge=1)] = 400  # units per hidden layer of a task's network
        depth: Annotated[int, Field(ge=1)] = 3  # hidden layers
        layer_norm: bool = False  # before each ReLU; steadier where many updates are made per step

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.num_tasks = num_tasks
        sizes = [in_features] + config.depth * [config.width]
        self.networks = nn.ModuleList(
            nn.Sequential(relu_layers(sizes, config.layer_norm), output_linear(config.width, out_features))
            for _ in range(num_tasks)
        )

    def forward(self, features: Tensor, task_ids: Tensor) -> Tensor:
        """features (B, in_features), task_ids (B,) int64 -> (B, out_features)."""
        if torch.compiler.is_exporting():  # a graph has no sizes that depend on the tasks: every network, all samples
            every = torch.stack([network(features) for network in self.networks], dim=1)  # (B, M, out)
            return every.gather(1, task_ids.view(-1, 1, 1).expand(-1, 1, every.shape[-1])).squeeze(1)
        order = task_ids.argsort(stable=True)
        counts = torch.bincount(task_ids, minlength=self.num_tasks).tolist()
        # Each network sees its own samples alone: the work of one network, whatever the number of tasks. Batched
        # products of samples padded to equal counts are no faster on a CPU.
        pieces = features[order].split(counts)
        values = torch.cat([network(piece) for network, piece in zip(self.networks, pieces, strict=True)])
        return values[order.argsort()]
