"""Multi-gate mixture of experts (Ma et al., 2018, KDD, doi:10.1145/3219819.3220007).

y_i = h_i(sum_k g_i(x)_k f_k(x)) with gates g_i(x) = softmax(W_i x): all tasks share the experts f_k, each has a gate
and a tower h_i of its own. The paper leaves the towers' depth open; here a tower is one linear head, as in the
multi-head baseline. Gates start near uniform. Shapes: B batch, K experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import Experts, TaskHeads, mix


@architectures.register("mmoe")
class MultiGateMixture(PolicyArchitecture):
    """Shared experts, a softmax gate over them per task, and a linear head per task."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        num_experts: Annotated[int, Field(ge=1)] = 4  # shared by all tasks
        width: Annotated[int, Field(ge=1)] = 200  # units per hidden layer of an expert
        depth: Annotated[int, Field(ge=1)] = 3  # hidden layers of an expert

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.experts = Experts(config.num_experts, [in_features] + config.depth * [config.width])
        self.gates = TaskHeads(in_features, config.num_experts, num_tasks)
        self.towers = TaskHeads(config.width, out_features, num_tasks)

    def forward(self, features: Tensor, task_ids: Tensor) -> Output:
        """features (B, in_features), task_ids (B,) int64 -> (B, out_features); diagnostics: gates, which sum to 1."""
        gates = F.softmax(self.gates(features, task_ids), dim=-1)  # (B, K)
        mixed = mix(gates, self.experts(features).relu())
        return Output(self.towers(mixed, task_ids), mixed, diagnostics={"gates": gates.detach()})
