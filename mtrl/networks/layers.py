"""Layers that architectures are made of. Shapes: B batch, M tasks, K layers side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def float32_island(function: Callable[..., Tensor], values: Tensor, *others: Tensor) -> Tensor:
    """`function(values, *others)` in float32 under autocast too; the others are float32 already."""
    if not torch.is_autocast_enabled(values.device.type):
        return function(values, *others)
    with torch.autocast(values.device.type, enabled=False):
        return function(values.float(), *others)


class OutputLinear(nn.Linear):
    """A last layer, which stays float32: actions are chosen by values that differ by less than bfloat16 resolves."""

    def forward(self, values: Tensor) -> Tensor:
        """values (B, in) -> (B, out) float32."""
        return float32_island(F.linear, values, self.weight, self.bias)


def hidden_linear(in_features: int, out_features: int) -> nn.Linear:
    """A layer before a ReLU: He-uniform weights, zero bias."""
    layer = nn.Linear(in_features, out_features)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def output_linear(in_features: int, out_features: int, bound: float = 1e-3) -> nn.Linear:
    """A last layer that starts near zero: uniform within `bound`."""
    layer = OutputLinear(in_features, out_features)
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.uniform_(layer.bias, -bound, bound)
    return layer


def relu_layers(sizes: Sequence[int], layer_norm: bool = False) -> nn.Sequential:
    """Linear layers of the given sizes, a ReLU after each, and before that a layer normalisation if wanted."""
    layers: list[nn.Module] = []
    for in_features, out_features in pairwise(sizes):
        layers.append(hidden_linear(in_features, out_features))
        if layer_norm:
            layers.append(Float32LayerNorm(out_features))
        # In place: the backward pass needs the ReLU's output alone.
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def one_hot(indices: Tensor, size: int) -> Tensor:
    """(...) int64 below `size` -> (..., size) float32. Unlike `F.one_hot` it works under `vmap` and in CUDA graphs."""
    return F.embedding(indices, torch.eye(size, device=indices.device))


def task_rows(table: Tensor, task_ids: Tensor) -> Tensor:
    """The row of each sample's task: table (M, n), task_ids (B,) int64 -> (B, n)."""
    return F.embedding(task_ids, table)


def uniform_noise(generator: torch.Generator, *shape: int) -> Tensor | None:
    """Uniform numbers of the shape, on the generator's device, or None where it is empty: the network takes none."""
    return torch.rand(shape, generator=generator, device=generator.device) if all(shape) else None


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform numbers: the arg-max of logits plus noise is a sample of their softmax."""
    return -torch.log(-torch.log(uniform.clamp(1e-6, 1 - 1e-6)))


def mix(weights: Tensor, sources: Tensor) -> Tensor:
    """Weighted sums over K sources: weights (B, K) or (B, J, K), sources (B, K, out) -> (B, out) or (B, J, out)."""
    if weights.dim() == 2:
        return torch.bmm(weights.unsqueeze(1), sources).squeeze(1)
    return torch.bmm(weights, sources)


class Float32LayerNorm(nn.LayerNorm):
    """Layer normalisation in float32 under autocast too, as torch does it on a GPU."""

    def forward(self, values: Tensor) -> Tensor:
        """values (B, n) -> (B, n) float32."""
        return float32_island(super().forward, values)


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
    """K MLPs side by side on the same input, a ReLU after each layer but the last."""

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
    """One linear layer per task; each sample gets its own task's.

    Every head is computed for every sample and the sample's own is picked: for heads this small that costs less than
    gathering weights per sample, and it works for any mix of tasks.
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
