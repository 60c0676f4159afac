"""Policy architectures: how a network shares its parameters between tasks. The plug-in point of the suite.

Actor, critics, value and Q functions are the same class with another `out_features`.

Shapes: B batch, M tasks, K copies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from mtrl.faults import WrongResult
from mtrl.registry import Registry


@dataclass(frozen=True)
class Output:
    """The output of an architecture that returns more than a tensor."""

    values: Tensor  # (B, out_features)
    representation: Tensor | None = None  # (B, d) with a graph, what the last layer or head reads
    route: Tensor | None = None  # (B, route_size) int64, the choices made, to be passed back as `route`
    route_log_prob: Tensor | None = None  # (B,) of `route`, with a graph; present where it learns by reinforcement
    route_entropy: Tensor | None = None  # (B,)
    losses: Mapping[str, Tensor] = field(default_factory=dict)  # named auxiliary losses, each (M,)
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)  # detached, each (B, ...); the actor's are logged
    members: Sequence[Output] = ()  # of an ensemble, whose output this is


class PolicyArchitecture(nn.Module, ABC):
    """A network of (features, task). Subclass it, give it a `Config`, register it; `forward` must write no attribute.

    The architecture owns its head. Randomness comes in as `noise`: the agent draws `noise_size` uniform numbers per
    sample from its own stream (0: none, and `forward` may leave the argument out). An architecture that chooses a route
    declares `route_size` and takes a `route` too: choices to make again.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters; every field has a default and a trailing comment."""

    noise_size: int = 0
    """Uniform numbers per sample that `forward` takes as `noise` (0: none)."""
    route_size: int = 0
    """Choices per sample in `Output.route` (0: none)."""
    works_under_vmap: bool = True
    """False where `torch.func.vmap` refuses `forward`: per-task gradients then take one pass per task."""

    @abstractmethod
    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Any):
        super().__init__()
        self.out_features = out_features

    @classmethod
    def value_config(cls, config: Any) -> Any:
        """The settings of a run's value and Q networks, `config` being those of its policy's networks."""
        return config

    @classmethod
    def config_for(cls, config: Any, task_names: Sequence[str]) -> Any:
        """The settings for tasks in this order, where they speak of tasks by name. Raises BadInput."""
        return config

    @classmethod
    def preset(cls, agent: str) -> Mapping[str, Any]:
        """Settings of a run that belong to the published method, as the nested mapping a YAML file would hold."""
        return {}

    forward: Callable[..., Tensor | Output]
    """features (B, in_features) float32, task_ids (B,) int64 -> (B, out_features).

    Takes `noise`, uniform (B, noise_size) float32, where `noise_size` is not 0, and `route` (B, route_size) int64 where
    `route_size` is not 0; both default to None, which stands for the most likely choices.
    """


class SelfUpdating(nn.Module, ABC):
    """A module whose parameters move by a rule of their own instead of the group's optimiser.

    They take no part in the group's gradient clipping.
    """

    @abstractmethod
    def step(self, shares: Tensor) -> None:
        """Moves them by their gradients, which are of the sum over tasks of share times loss; shares (M,) as
        in `Batch.shares`, loss weights included.

        What the rule remembers has to be in the state dict.
        """


architectures: Registry[PolicyArchitecture] = Registry("architecture", PolicyArchitecture)


def run(
    architecture: PolicyArchitecture,
    features: Tensor,
    task_ids: Tensor,
    noise: Tensor | None = None,
    route: Tensor | None = None,
) -> Output:
    """The architecture's output as an `Output` with float32 values, whichever of the two forms its author chose.

    Raises WrongResult.
    """
    # Only what is given is passed on: most architectures take neither noise nor route.
    given = {name: value for name, value in (("noise", noise), ("route", route)) if value is not None}
    return as_output(architecture(features, task_ids, **given), (features.shape[0], architecture.out_features))


def as_output(output: Tensor | Output, expected: tuple[int, int]) -> Output:
    """What an architecture returned, as an `Output` with float32 values of the `expected` shape (B, out_features).

    Raises WrongResult for another shape or dtype, which might be broadcast and trained on.
    """
    output = output if isinstance(output, Output) else Output(output)
    if not isinstance(output.values, Tensor):
        raise WrongResult(f"returned {type(output.values).__name__} from forward, expected a tensor or an Output")
    # Under autocast a last layer that is a plain linear one gives bfloat16.
    if output.values.dtype == torch.bfloat16:
        output = replace(output, values=output.values.float())
    if output.values.shape != expected or output.values.dtype != torch.float32:
        found = f"{tuple(output.values.shape)} {output.values.dtype}"
        raise WrongResult(f"returned {found} from forward, expected {expected} torch.float32")
    return output


class Ensemble(nn.Module):
    """K architectures with parameters of their own that see the same input, such as twin critics."""

    def __init__(self, members: Iterable[PolicyArchitecture]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.noise_size: int = self.members[0].noise_size  # type: ignore[assignment]

    def forward(self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None) -> Output:
        """features (B, in), noise (B, K, noise_size) -> values (K, B, out).

        Auxiliary losses are means over members; representation (B, d) and diagnostics are those of the first.
        """
        outputs = [
            run(member, features, task_ids, None if noise is None else noise[:, index])  # type: ignore[arg-type]
            for index, member in enumerate(self.members)
        ]
        names = outputs[0].losses.keys()
        return Output(
            values=torch.stack([output.values for output in outputs]),
            representation=outputs[0].representation,
            losses={name: torch.stack([output.losses[name] for output in outputs]).mean(0) for name in names},
            diagnostics=outputs[0].diagnostics,
            members=outputs,
        )
