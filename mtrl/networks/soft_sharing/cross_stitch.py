"""Cross-stitch networks (Misra et al., 2016, arXiv:1604.03539): a column per task, mixed linearly after every layer.

x_i <- sum_j alpha_ij relu(W_j x_j), alpha_ii = 0.9 and alpha_ij = 0.1 / (M - 1) at the start, as the paper recommends
(its `same` and `different` initial values). The paper has one unit per channel; here one matrix per layer serves all
units of the column. There all tasks read the same input, so a row of task i passes through every column and its answer
is column i's: M times the work of one column, whence the narrow default. Shapes: B batch, M tasks and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import ParallelLinear, TaskHeads, hidden_linear, mix, task_rows


@architectures.register("cross-stitch")
class CrossStitch(PolicyArchitecture):
    """One narrow network per task, whose layers read a learned mixture of all tasks' layers below."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, Field(ge=1)] = 128  # units per hidden layer of a task's column
        depth: Annotated[int, Field(ge=1)] = 3  # hidden layers
        own_share: Annotated[float, Field(ge=0, le=1)] = 0.9  # of a column in its own mixture at the start

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.num_tasks = num_tasks
        self.first = hidden_linear(in_features, num_tasks * config.width)  # every column sees the features
        later = range(config.depth - 1)
        self.layers = nn.ModuleList(ParallelLinear(num_tasks, config.width, config.width) for _ in later)
        others = (1 - config.own_share) / max(num_tasks - 1, 1)
        start = torch.full((num_tasks, num_tasks), others).fill_diagonal_(config.own_share)
        self.stitches = nn.ParameterList(nn.Parameter(start.clone()) for _ in range(config.depth))
        self.heads = TaskHeads(config.width, out_features, num_tasks)

    def forward(self, features: Tensor, task_ids: Tensor) -> Output:
        """features (B, in_features), task_ids (B,) int64 -> (B, out_features); diagnostics: own rows of alpha."""
        columns = self.first(features).unflatten(-1, (self.num_tasks, -1)).relu()  # (B, M, width)
        shares = [task_rows(stitch, task_ids) for stitch in self.stitches]
        for stitch, layer in zip(self.stitches, self.layers, strict=False):
            columns = layer(torch.einsum("ij,bjw->biw", stitch, columns)).relu()
        # After the last layer only the mixture of the row's own task is read.
        mixed = mix(shares[-1], columns)
        values = self.heads(mixed, task_ids)
        return Output(
            values, mixed, diagnostics={f"stitch_{layer}": row.detach() for layer, row in enumerate(shares, 1)}
        )
