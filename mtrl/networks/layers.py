"""Layers that architectures are made of. Shapes: B batch, M tasks, K layers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtrl.equal_shares import constant, equal_shares, in_equal_shares
from mtrl.precision import LastLinear, exact


def hidden_linear(in_features: int, out_features: int) -> nn.Linear:
    """A layer before a ReLU: He-uniform weights, zero bias."""
    layer = nn.Linear(in_features, out_features)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def output_linear(in_features: int, out_features: int, bound: float = 1e-3) -> nn.Linear:
    """A last layer that starts near zero: uniform within `bound`."""
    layer = LastLinear(in_features, out_features)
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.uniform_(layer.bias, -bound, bound)
    return layer


class ReluLayers(nn.Sequential):
    """Linear layers with a ReLU after each, applied as functions: to call small modules costs as much as they do."""

    def forward(self, values: Tensor) -> Tensor:
        """values (..., first size) -> (..., last size)."""
        for layer in self:
            if isinstance(layer, nn.Linear):
                values = F.linear(values, layer.weight, layer.bias)
            elif isinstance(layer, nn.ReLU):
                # In place: nothing else reads what it changes, and the backward pass needs the ReLU's output alone.
                values = values.relu_()
            else:
                values = layer(values)
        return values


def relu_layers(sizes: Sequence[int], layer_norm: bool = False) -> ReluLayers:
    """Linear layers of the given sizes, a ReLU after each, and before that a layer normalisation if wanted."""
    layers: list[nn.Module] = []
    for in_features, out_features in pairwise(sizes):
        layers.append(hidden_linear(in_features, out_features))
        if layer_norm:
            layers.append(ExactLayerNorm(out_features))
        layers.append(nn.ReLU())
    return ReluLayers(*layers)


def one_hot(indices: Tensor, size: int) -> Tensor:
    """(...) int64 below `size` -> (..., size) float32, not to be written to.

    Rows of an identity, which `vmap` and CUDA graphs take. Those of tasks known to be in equal shares are kept.
    """
    rows = indices.shape[0] if indices.dim() == 1 and indices.is_cpu else 0
    if rows and rows % size == 0 and indices is equal_shares(rows, size):
        return _one_hot_of_equal_shares(rows, size)
    return F.embedding(indices, _identity(size, indices.device))


@lru_cache(maxsize=64)
def _one_hot_of_equal_shares(rows: int, size: int) -> Tensor:
    return constant(np.eye(size, dtype=np.float32).repeat(rows // size, axis=0))


@cache  # for good: recorded kernels read it
def _identity(size: int, device: torch.device) -> Tensor:
    return constant(np.eye(size, dtype=np.float32), device)


def own_rows(table: Tensor, task_ids: Tensor) -> Tensor:
    """The row of each one's task: table (M, n), task_ids (B,) int64 -> (B, n), exact in any precision."""
    return F.embedding(task_ids, table)


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise of uniform numbers, any shape: the arg-max of it and logits is drawn from their softmax."""
    return -torch.log(-torch.log(uniform.clamp(1e-6, 1 - 1e-6)))


def mix(weights: Tensor, sources: Tensor) -> Tensor:
    """Weighted sums over K sources: weights (B, K) or (B, J, K), sources (B, K, out) -> (B, out) or (B, J, out)."""
    if weights.dim() == 2:
        return torch.bmm(weights.unsqueeze(1), sources).squeeze(1)
    return torch.bmm(weights, sources)


class ExactLayerNorm(nn.LayerNorm):
    """Layer normalisation in float32 whatever the precision of the network, as torch does it on a GPU."""

    def forward(self, values: Tensor) -> Tensor:
        """values (B, n) -> (B, n) float32."""
        return exact(super().forward, values)


class ParallelLinear(nn.Module):
    """K linear layers with an input of their own each, as one batched product. Initialised as `hidden_linear`."""

    def __init__(self, num_layers: int, in_features: int, out_features: int):
        super().__init__()
        bound = (6 / in_features) ** 0.5
        self.weight = nn.Parameter(torch.empty(num_layers, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(num_layers, 1, out_features))

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs (B, K, in_features) -> (B, K, out_features)."""
        return torch.baddbmm(self.bias, inputs.transpose(0, 1), self.weight).transpose(0, 1)


class Experts(nn.Module):
    """K perceptrons side by side on the same input, a ReLU after each layer but the last."""

    def __init__(self, num_experts: int, sizes: Sequence[int]):
        """sizes: of the input and of every layer."""
        super().__init__()
        self.num_experts = num_experts
        self.first = hidden_linear(sizes[0], num_experts * sizes[1])  # one product, since all see the same
        self.layers = nn.ModuleList(ParallelLinear(num_experts, *pair) for pair in pairwise(sizes[1:]))

    def forward(self, features: Tensor) -> Tensor:
        """features (B, in_features) -> (B, K, last size)."""
        values = self.first(features).unflatten(-1, (self.num_experts, -1))
        for layer in self.layers:
            values = layer(values.relu())
        return values


class TaskHeads(nn.Module):
    """One linear layer per task; each row gets its own task's.

    Rows in equal shares, as learners mostly draw them, are one batched product with their own heads. Of all others
    every head is computed and the row's own is picked: for heads this small that costs less than gathering weights per
    row, but it is as many times the work as there are tasks.
    """

    def __init__(self, in_features: int, out_features: int, num_tasks: int):
        super().__init__()
        self.num_tasks = num_tasks
        self.heads = output_linear(in_features, num_tasks * out_features)

    def forward(self, features: Tensor, task_ids: Tensor) -> Tensor:
        """features (B, in_features), task_ids (B,) -> (B, out_features)."""
        if in_equal_shares(task_ids, self.num_tasks):
            heads = self.heads
            return exact(self._of_equal_shares, features, heads.weight, heads.bias)
        values = self.heads(features).unflatten(-1, (self.num_tasks, -1))  # (B, M, out)
        own = task_ids.view(-1, 1, 1).expand(-1, 1, values.shape[-1])
        return values.gather(1, own).squeeze(1)

    def _of_equal_shares(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = features.view(self.num_tasks, -1, features.shape[1])
        weights = weight.view(self.num_tasks, -1, weight.shape[1]).transpose(1, 2)
        return torch.baddbmm(bias.view(self.num_tasks, 1, -1), rows, weights).flatten(0, 1)
