"""Branched networks: a tree whose leaves are the tasks' heads; related tasks share more of their layers.

The tree is given, from the affinity of the tasks (as in Vandenhende et al., 2019, arXiv:1904.02920, who choose it by
representation similarity), or learned (Learning to Branch: Guo et al., 2020, arXiv:2006.01895):

    h_1n = relu(W_1n x),    h_ln = relu(W_ln h_{l-1, p(n)}),    y_i = head_i(h_{L, p(i)})

p picks one parent among the nodes of the layer below. Learned, every node has logits over these, and p is a
straight-through Gumbel-softmax sample of them, anew for every row; without noise it is the most likely parent. The
paper anneals the temperature and fixes the sampled tree afterwards; here it is constant, and choices go on being
sampled in training. Nodes of a layer are computed side by side. Shapes: B batch, M tasks, K nodes of a layer, L layers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from mtrl.errors import BadInput
from mtrl.networks.architecture import Output, PolicyArchitecture, architectures
from mtrl.networks.layers import ParallelLinear, TaskHeads, gumbel, hidden_linear, mix, one_hot, task_rows
from mtrl.networks.task_groups import tree


@architectures.register("branched")
class Branched(PolicyArchitecture):
    """A tree of layers with a head per task at its leaves; the tree is given or learned."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: Annotated[int, Field(ge=1)] = 256  # units per node
        branches: tuple[PositiveInt, ...] = (1, 2, 4)  # nodes of every layer, from the input; a tree has its own
        tree: tuple[tuple[NonNegativeInt, ...], ...] = ()  # node of every task, layer by layer; empty: learned
        tasks: tuple[str, ...] = ()  # names of the tree's tasks, in its order; empty: those of the suite
        relations: str | None = None  # relations.json by which the tree is cut into branches; read once, kept as tree
        temperature: Annotated[float, Field(gt=0)] = 1.0  # of the softmax whose gradient a learned tree takes

        def __post_init__(self) -> None:
            if not self.branches:
                raise ValueError("branches [] is not allowed; a network has one layer at least")
            if self.relations is not None:  # a run's settings hold the tree itself: the file may change or go
                for name, value in zip(("tree", "tasks"), _tree_of(Path(self.relations), self.branches), strict=True):
                    object.__setattr__(self, name, value)
                object.__setattr__(self, "relations", None)
            if len({len(layer) for layer in self.tree}) > 1:
                raise ValueError("tree: the layers are of different numbers of tasks")
            for below, layer in pairwise(self.tree):
                if len({*zip(layer, below, strict=True)}) > len({*layer}):
                    raise ValueError(f"tree: {list(layer)} joins tasks that the layer before has apart: {list(below)}")

    @classmethod
    def config_for(cls, config: Config, task_names: Sequence[str]) -> Config:
        if not config.tree or config.tasks in ((), tuple(task_names)):
            return config
        if sorted(config.tasks) != sorted(task_names):
            known = ", ".join(config.tasks)
            raise BadInput(f"architecture.tree is of the tasks {known}, and the suite has {', '.join(task_names)}")
        order = [config.tasks.index(name) for name in task_names]
        permuted = tuple(tuple(layer[place] for place in order) for layer in config.tree)
        return replace(config, tree=permuted, tasks=tuple(task_names))

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        # One task, as Distral's common policy has, goes one way through any tree.
        given = config.tree if num_tasks > 1 else tuple(layer[:1] for layer in config.tree)
        if given and len(given[0]) != num_tasks:
            raise BadInput(f"architecture.tree is of {len(given[0])} tasks, and the suite has {num_tasks}")
        sizes = [len({*layer}) for layer in given] or [*config.branches]
        self.first = hidden_linear(in_features, sizes[0] * config.width)  # one product, since all see the features
        self.layers = nn.ModuleList(ParallelLinear(number, config.width, config.width) for number in sizes[1:])
        self.heads = TaskHeads(config.width, out_features, num_tasks)
        self.sizes, self.temperature = sizes, config.temperature
        # Logits (K, parents) of every layer but the first, then (M, parents) of the heads.
        children = [*sizes[1:], num_tasks]
        self.learned = not given
        self.noise_size = (sum(sizes[i] * children[i] for i in range(len(sizes) - 1)) + sizes[-1]) * self.learned
        if self.learned:
            for index, shape in enumerate(zip(children, sizes, strict=True)):
                # There is no choice of a single parent, and nothing to learn.
                logits = torch.zeros(shape)
                if shape[1] == 1:
                    self.register_buffer(f"logits_{index}", logits)
                else:
                    self.register_parameter(f"logits_{index}", nn.Parameter(logits))
        else:
            *parents, leaves = _parents(given)
            for index, own in enumerate(parents):
                self.register_buffer(f"parents_{index}", torch.tensor(own))
            self.register_buffer("leaves", torch.eye(sizes[-1])[leaves])  # (M, K)

    def forward(self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None) -> Output:
        """features (B, in_features), task_ids (B,) int64, noise (B, noise_size) uniform -> (B, out_features)."""
        nodes = self.first(features).unflatten(-1, (self.sizes[0], -1)).relu()  # (B, K, width)
        if not self.learned:
            for index, layer in enumerate(self.layers):
                nodes = layer(nodes.index_select(1, self.get_buffer(f"parents_{index}"))).relu()
            own = mix(task_rows(self.get_buffer("leaves"), task_ids), nodes)
            return Output(self.heads(own, task_ids), own)
        start = 0
        *inner, leaves = self.logits()
        for layer, logits in zip(self.layers, inner, strict=True):
            part = None if noise is None else noise[:, start : start + logits.numel()].unflatten(-1, logits.shape)
            start += logits.numel()
            choice = self.choose(logits.expand(features.shape[0], *logits.shape), part)  # (B, K, parents)
            nodes = layer(mix(choice, nodes)).relu()
        own = mix(self.choose(task_rows(leaves, task_ids), None if noise is None else noise[:, start:]), nodes)
        diagnostics = {f"branch_{depth}": own for depth, own in enumerate(self.node_probabilities(task_ids), start=1)}
        return Output(self.heads(own, task_ids), own, diagnostics=diagnostics)

    def logits(self) -> list[Tensor]:
        """Over parents: (K, parents) for the nodes of every layer but the first, then (M, parents) for the heads."""
        return [getattr(self, f"logits_{index}") for index in range(len(self.sizes))]

    def choose(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """One-hot choices over the last dimension, with the gradient of the relaxed choice; noise as the logits."""
        noisy = logits if noise is None else logits + gumbel(noise)
        relaxed = F.softmax(noisy / self.temperature, dim=-1)
        return one_hot(noisy.argmax(-1), logits.shape[-1]) + (relaxed - relaxed.detach())

    def node_probabilities(self, task_ids: Tensor) -> list[Tensor]:
        """How probable each node is on the way of every row's task: (B, K) of every layer from the input, detached."""
        *inner, leaves = (logits.detach().softmax(-1) for logits in self.logits())
        found = [task_rows(leaves, task_ids)]
        for parents in reversed(inner):
            found.insert(0, found[0] @ parents)
        return found


def _parents(tree: Sequence[Sequence[int]]) -> list[list[int]]:
    """The parent of every node of every layer but the first, and of every head; nodes by rank among their layer's."""
    ranked = []
    for layer in tree:
        rank = {node: place for place, node in enumerate(sorted({*layer}))}
        ranked.append([rank[node] for node in layer])
    found = []
    for below, layer in pairwise(ranked):
        found.append([below[layer.index(node)] for node in range(max(layer) + 1)])
    return [*found, ranked[-1]]


def _tree_of(path: Path, branches: Sequence[int]) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """The tree of the tasks of a relations.json, cut into so many nodes per layer, and their names.

    Raises ValueError, BadInput.
    """
    try:
        document = json.loads(path.read_text())
        affinity, tasks = np.array(document["affinity"], np.float64), tuple(map(str, document["tasks"]))  # null is NaN
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"relations: {path} cannot be read as a relations.json: {error}") from error
    return tuple(map(tuple, tree(affinity, branches))), tasks
