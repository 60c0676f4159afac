"""Soft layer ordering (Meyerson and Miikkulainen, 2018, arXiv:1711.00108): each task orders shared layers softly.

y^{k+1} = sum_j s_ijk relu(W_j y^k + b_j), with s_i.k the softmax over the D shared layers of what task i has learnt for
depth k; D depths, all s equal at the start. The paper gives every task an encoder and a decoder; observations of a
suite are of one kind, so here one linear encoder sees the features and the one-hot task (an own bias per task), and the
decoders are linear heads. The paper's dropout after every layer is left out. Shapes: B batch, D layers and depths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import TaskHeads, hidden_linear, mix, one_hot


@architectures.register("soft-ordering")
class SoftOrdering(PolicyArchitecture):
    """Shared layers that each task applies in its own soft order, between a shared encoder and a head per task."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, Field(ge=1)] = 256  # units per layer
        num_layers: Annotated[int, Field(ge=1)] = 3  # shared layers, and as many depths at which all are applied

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.num_tasks = num_tasks
        self.num_layers = config.num_layers
        self.encoder = hidden_linear(in_features + num_tasks, config.width)
        # All layers are applied to the same input: one product gives them side by side.
        self.layers = hidden_linear(config.width, config.num_layers * config.width)
        self.orders = nn.Parameter(torch.zeros(config.num_layers, num_tasks, config.num_layers))
        self.heads = TaskHeads(config.width, out_features, num_tasks)

    def forward(self, features: Tensor, task_ids: Tensor) -> Output:
        """features (B, in_features), task_ids (B,) int64 -> (B, out_features); diagnostics: order (B, D, D)."""
        own = one_hot(task_ids, self.num_tasks)
        order = own @ F.softmax(self.orders, dim=-1)  # (D, B, D): depth, row, layer
        values = self.encoder(torch.cat([features, own], dim=-1)).relu()
        for shares in order:
            values = mix(shares, self.layers(values).relu().unflatten(-1, (self.num_layers, -1)))
        return Output(self.heads(values, task_ids), values, diagnostics={"order": order.transpose(0, 1).detach()})
