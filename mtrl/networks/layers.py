"""Layers that architectures are made of. Shapes: B batch, M tasks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def hidden_linear(in_features: int, out_features: int) -> nn.Linear:
    """A layer before a ReLU: He-uniform weights, zero bias."""
    layer = nn.Linear(in_features, out_features)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def output_linear(in_features: int, out_features: int, bound: float = 1e-3) -> nn.Linear:
    """A last layer that starts near zero: uniform within `bound`."""
    layer = nn.Linear(in_features, out_features)
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.uniform_(layer.bias, -bound, bound)
    return layer


def relu_layers(sizes: Sequence[int], layer_norm: bool = False) -> nn.Sequential:
    """Linear layers of the given sizes, a ReLU after each, and before that a layer normalisation if wanted."""
    layers: list[nn.Module] = []
    for in_features, out_features in pairwise(sizes):
        layers.append(hidden_linear(in_features, out_features))
        if layer_norm:
            layers.append(nn.LayerNorm(out_features))
        # In place: nothing else reads what it changes, and the backward pass needs the ReLU's output alone.
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def one_hot(task_ids: Tensor, num_tasks: int) -> Tensor:
    """(B,) int64 -> (B, M) float32. Written as a comparison, which `vmap` and CUDA graphs take."""
    return (task_ids.unsqueeze(-1) == torch.arange(num_tasks, device=task_ids.device)).float()


class TaskHeads(nn.Module):
    """One linear layer per task; each row gets its own task's.

    All heads are computed as one product and the row's own is picked: for heads this small that costs less than
    gathering weights per row, and it needs neither sorted rows nor equal counts.
    """

    def __init__(self, in_features: int, out_features: int, num_tasks: int):
        super().__init__()
        self.num_tasks = num_tasks
        self.heads = output_linear(in_features, num_tasks * out_features)

    def forward(self, features: Tensor, task_ids: Tensor) -> Tensor:
        """features (B, in_features), task_ids (B,) -> (B, out_features)."""
        values = self.heads(features).unflatten(-1, (self.num_tasks, -1))  # (B, M, out)
        own = task_ids.view(-1, 1, 1).expand(-1, 1, values.shape[-1])
        return values.gather(1, own).squeeze(1)
