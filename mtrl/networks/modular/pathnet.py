"""Modular columns in the manner of PathNet (Fernando et al., 2017, arXiv:1701.08734).

L layers of N modules; the pathway of a task runs through k modules of every layer, and what they give is combined:
x <- (1/k) sum_{n in path} relu(W_n x + b_n). The paper sums (a mean keeps the scale independent of k), finds pathways
by a tournament and freezes a task's modules before the next task comes. Tasks are learnt together here, so nothing is
frozen, and a pathway is learnt by gradient in place of evolution: it is the k best of learned scores per task, layer
and module, with Gumbel noise on them while training (the mutations), and the gradient is that of the softmax of the
noisy scores, straight through. Without noise the k best scores are taken.
Shapes: B batch, L layers, N modules per layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import TaskHeads, gumbel, hidden_linear, mix, task_rows


@architectures.register("pathnet")
class PathNet(PolicyArchitecture):
    """Layers of modules, of which each task learns to use a few, and a linear head per task."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, Field(ge=1)] = 128  # units per module
        num_layers: Annotated[int, Field(ge=1)] = 3  # layers of modules
        num_modules: Annotated[int, Field(ge=1)] = 8  # modules per layer
        num_chosen: Annotated[int, Field(ge=1)] = 3  # modules per layer in a task's pathway
        temperature: Annotated[float, Field(gt=0)] = 1.0  # of the softmax whose gradient is taken

        def __post_init__(self) -> None:
            if self.num_chosen > self.num_modules:
                raise ValueError(f"num_chosen {self.num_chosen} is more than num_modules {self.num_modules}")

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.num_tasks, self.num_modules = num_tasks, config.num_modules
        self.num_chosen, self.temperature = config.num_chosen, config.temperature
        self.noise_size = config.num_layers * config.num_modules
        # All modules of a layer see the same input: one product gives them side by side.
        sizes = [in_features] + config.num_layers * [config.width]
        self.layers = nn.ModuleList(
            hidden_linear(below, config.num_modules * above) for below, above in pairwise(sizes)
        )
        self.scores = nn.Parameter(0.1 * torch.randn(num_tasks, self.noise_size))
        self.heads = TaskHeads(config.width, out_features, num_tasks)

    def forward(self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None) -> Output:
        """features (B, in_features), task_ids (B,) int64, noise (B, L * N) uniform -> (B, out_features)."""
        scores = task_rows(self.scores, task_ids)
        path = self.choose(self._by_layer(scores), None if noise is None else self._by_layer(noise))  # (B, L, N)
        for layer, chosen in zip(self.layers, path.unbind(1), strict=True):
            features = mix(chosen, layer(features).relu().unflatten(-1, (self.num_modules, -1))) / self.num_chosen
        return Output(self.heads(features, task_ids), features, diagnostics={"path": path.detach()})

    def choose(self, scores: Tensor, noise: Tensor | None) -> Tensor:
        """1 for the k best of N scores (B, L, N), 0 for the others, with the gradient of k times their softmax."""
        if noise is not None:
            scores = scores + gumbel(noise)
        best = torch.zeros_like(scores).scatter(-1, scores.detach().topk(self.num_chosen).indices, 1.0)
        relaxed = self.num_chosen * F.softmax(scores / self.temperature, dim=-1)
        return best + (relaxed - relaxed.detach())

    def _by_layer(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (-1, self.num_modules))
