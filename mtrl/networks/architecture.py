"""The plug-in point: how a network shares its parameters between tasks.

Actor, critics, value and Q functions are the same class with another `out_features`. Shapes: B batch, M tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mtrl.precision import MixedPrecision
from mtrl.registry import Registry


@dataclass(frozen=True)
class Output:
    """What an architecture returns when it has more to say than a tensor."""

    values: Tensor  # (B, out_features)
    route: Tensor | None = None  # (B, route_size) int64, the choices made, to be passed back as `draw`
    route_log_prob: Tensor | None = None  # (B,) of `route`, with a graph; what learns by reinforcement has one
    route_entropy: Tensor | None = None  # (B,)
    losses: Mapping[str, Tensor] = field(default_factory=dict)  # named auxiliary losses, each (M,)
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)  # detached, each (B, ...); the actor's are logged


class PolicyArchitecture(MixedPrecision, ABC):
    """A network of (features, task). Subclass, give it a `Config`, register it; `forward` must write no attribute.

    The architecture owns its head. Randomness comes in as `draw`: the agent draws `draw_size` uniform numbers per row
    from its own stream (0: none, and `forward` may leave the argument out). An architecture that chooses a route, and
    declares `route_size`, takes a route there too: int64 numbers are choices to make again, floating ones are noise.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters; every field has a default and a trailing comment."""

    draw_size: int = 0
    route_size: int = 0
    """Choices per row in `Output.route` (0: none)."""
    works_under_vmap: bool = True
    """False where `torch.func.vmap` refuses `forward`: per-task gradients then take one pass per task."""

    @abstractmethod
    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Any):
        super().__init__()

    @classmethod
    def value_config(cls, config: Any) -> Any:
        """The settings of a run's value and Q networks, `config` being those of its policy's networks."""
        return config

    @abstractmethod
    def forward(self, features: Tensor, task_ids: Tensor, draw: Tensor | None = None) -> Tensor | Output:
        """features (B, in_features) float32, task_ids (B,) int64 -> (B, out_features).

        `draw`: uniform (B, draw_size) float32, a route (B, route_size) int64, or None: the most likely choices.
        """


class SelfUpdating(nn.Module, ABC):
    """A part of an architecture whose parameters move by a rule of their own, and not by the group's optimiser."""

    @abstractmethod
    def step(self) -> None:
        """Moves them by their (clipped) gradients. What the rule remembers has to be in the state."""


architectures: Registry[PolicyArchitecture] = Registry("architecture")


def run(architecture: nn.Module, features: Tensor, task_ids: Tensor, draw: Tensor | None = None) -> Output:
    """The architecture's output as an `Output`, whichever of the two forms its author chose."""
    result = architecture(features, task_ids) if draw is None else architecture(features, task_ids, draw)
    return result if isinstance(result, Output) else Output(result)
