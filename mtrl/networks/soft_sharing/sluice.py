"""Sluice networks (Ruder et al., 2019, arXiv:1705.08142): columns of two subspaces, stitched, and skip connections.

Every layer of every task's column is split into two subspaces; a matrix alpha over all 2 M of them mixes them after the
layer. A task's head reads a mixture beta of its column's layers. The two subspaces of a layer are kept apart by the
penalty ||G_1^T G_2||_F^2 on the weights that make them; here it is a mean over the entries, so that its weight does not
depend on the width. Here alpha starts as in cross-stitch networks and beta
equal. A row passes through every column, M times the work of one. Shapes: B batch, M tasks and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import ParallelLinear, TaskHeads, hidden_linear, mix, task_rows


@architectures.register("sluice")
class Sluice(PolicyArchitecture):
    """One narrow network per task, mixed by subspaces after every layer, with heads that read all layers."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        subspace_width: Annotated[int, Field(ge=1)] = 64  # units per subspace; a layer of a column has two
        depth: Annotated[int, Field(ge=1)] = 3  # hidden layers
        own_share: Annotated[float, Field(ge=0, le=1)] = 0.9  # of a subspace in its own mixture at the start
        orthogonality: Annotated[float, Field(ge=0)] = 0.01  # weight of the penalty

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        width = 2 * config.subspace_width
        self.num_tasks = num_tasks
        self.orthogonality = config.orthogonality
        self.first = hidden_linear(in_features, num_tasks * width)  # every column sees the features
        self.layers = nn.ModuleList(ParallelLinear(num_tasks, width, width) for _ in range(config.depth - 1))
        start = torch.full((2 * num_tasks, 2 * num_tasks), (1 - config.own_share) / (2 * num_tasks - 1))
        start.fill_diagonal_(config.own_share)
        self.alphas = nn.ParameterList(nn.Parameter(start.clone()) for _ in range(config.depth))
        self.beta = nn.Parameter(torch.full((num_tasks, config.depth), 1 / config.depth))
        self.heads = TaskHeads(width, out_features, num_tasks)

    def forward(self, features: Tensor, task_ids: Tensor) -> Output:
        """features (B, in_features), task_ids (B,) int64 -> (B, out_features); diagnostics: own row of beta."""
        subspaces = self._split(self.first(features).relu())
        alphas = list(self.alphas)  # a slice of a ParameterList would be of copies
        read = [self._of_own_task(task_ids, alphas[0], subspaces)]
        for layer, (below, alpha) in zip(self.layers, pairwise(alphas), strict=True):
            columns = torch.einsum("ij,bjw->biw", below, subspaces).unflatten(1, (self.num_tasks, 2)).flatten(2)
            subspaces = self._split(layer(columns).relu().flatten(1))
            read.append(self._of_own_task(task_ids, alpha, subspaces))
        beta = task_rows(self.beta, task_ids)
        mixed = mix(beta, torch.stack(read, dim=1))
        return Output(
            self.heads(mixed, task_ids),
            mixed,
            losses={"orthogonality": self.orthogonality * self.overlap()},
            diagnostics={"beta": beta.detach()},
        )

    def overlap(self) -> Tensor:
        """Mean squared inner product of the weights of a layer's two subspaces, summed over a column's layers (M,)."""
        weights = [self.first.weight.unflatten(0, (self.num_tasks, -1))]
        layers = [cast(ParallelLinear, layer) for layer in self.layers]
        weights += [layer.weight.transpose(1, 2) for layer in layers]  # each (M, width, inputs)
        pairs = [weight.chunk(2, dim=1) for weight in weights]
        return torch.stack([torch.bmm(one, two.transpose(1, 2)).square().mean((1, 2)) for one, two in pairs]).sum(0)

    def _split(self, columns: Tensor) -> Tensor:
        """(B, M * width) -> (B, 2 M, width / 2)."""
        return columns.unflatten(-1, (2 * self.num_tasks, -1))

    def _of_own_task(self, task_ids: Tensor, alpha: Tensor, subspaces: Tensor) -> Tensor:
        """The two mixed subspaces of each row's own task, side by side (B, width)."""
        shares = task_rows(alpha.view(self.num_tasks, -1), task_ids).unflatten(-1, (2, -1))  # (B, 2, 2 M)
        return mix(shares, subspaces).flatten(1)
