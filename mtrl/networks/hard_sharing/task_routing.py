"""Task routing (Strezoski et al., 2019, arXiv:1903.12117): every task uses its own fixed random part of each layer.

relu(W x + b) * mask_i, with masks drawn once at construction and kept in the state: round(sigma * width) units of each
layer are off for a task, never all. The paper's sharing ratio is turned round: sigma = 0 shares everything. Every task
has a linear head, as there; nothing else tells the network its task. What is left on is not rescaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import TaskHeads, hidden_linear


@architectures.register("task-routing")
class TaskRouting(PolicyArchitecture):
    """Shared hidden layers, of which each task has some units switched off for good, and a linear head per task."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, Field(ge=1)] = 400  # units per hidden layer
        depth: Annotated[int, Field(ge=1)] = 3  # hidden layers, all masked
        sigma: Annotated[float, Field(ge=0, lt=1)] = 0.5  # share of a layer's units switched off for a task

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        sizes = [in_features] + config.depth * [config.width]
        self.layers = nn.ModuleList(hidden_linear(*pair) for pair in pairwise(sizes))
        self.heads = TaskHeads(config.width, out_features, num_tasks)
        num_off = min(round(config.sigma * config.width), config.width - 1)
        # Ranks of random numbers are a random order of each task's units.
        ranks = torch.rand(config.depth, num_tasks, config.width).argsort(-1).argsort(-1)
        self.masks: Tensor
        self.register_buffer("masks", (ranks >= num_off).float())  # (depth, M, width)

    def forward(self, features: Tensor, task_ids: Tensor) -> Output:
        """features (B, in_features), task_ids (B,) int64 -> (B, out_features)."""
        for layer, mask in zip(self.layers, self.masks, strict=True):
            features = layer(features).relu() * mask[task_ids]
        return Output(self.heads(features, task_ids), features)
