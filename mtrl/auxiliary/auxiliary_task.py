"""The interface of auxiliary tasks: what each sees, and what it gives.

Shapes: B batch, F features, M tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from mtrl.aggregation import TaskLosses
from mtrl.encoders import Encoder
from mtrl.errors import BadInput
from mtrl.faults import WrongResult
from mtrl.registry import Registry
from mtrl.types import Batch, SuiteSpec


@dataclass(frozen=True)
class AuxiliaryContext:
    """What an auxiliary task is made for."""

    spec: SuiteSpec
    encoder: Encoder  # trained by the same parameter group; to be copied, never kept; None where `trains` is policy
    name: str  # of the task in the configuration, for errors
    policy: Any = None  # trained by the same parameter group, where `trains` is policy; to be looked at, never kept
    device: torch.device | str = "cpu"  # of the run
    learning: bool = True  # False: the agent will only play; the task loads nothing that only learning needs
    has_values: bool = False  # whether there is `AuxiliaryInputs.value_error`


@dataclass(frozen=True)
class AuxiliaryInputs:
    """What an auxiliary task sees of one update."""

    batch: Batch  # what the agent's loss sees, `Batch.noise` included
    result: TaskLosses  # of the agent: features, outputs of the networks, losses
    encode: Callable[[Tensor], Tensor]  # observation (B, *observation) -> features (B, F), by the group's parameters
    columns: Mapping[str, Tensor]  # what `AuxiliaryTask.columns` and `on_rollout` gave, by name
    value_error: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """(observation, task_ids, returns in reward units) -> squared errors (B,) of the agent's value function."""

    @property
    def features(self) -> Tensor:
        """Features (B, F) of the batch's observations, with a graph."""
        assert self.result.features is not None
        return self.result.features

    @property
    def next_observation(self) -> Tensor:
        """The observation one env step later (B, *observation), whatever the agent's `n_step`."""
        extras = self.batch.extras
        return extras["sequence_observation"][:, 0] if "sequence_observation" in extras else self.batch.next_observation

    @property
    def terminated(self) -> Tensor:
        """Whether the step to `next_observation` terminated (B,)."""
        extras = self.batch.extras
        return extras["sequence_terminated"][:, 0] if "sequence_terminated" in extras else self.batch.terminated

    def steps(self, horizon: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The first `horizon` steps: actions (B, ...), observations after them, and whether the step is there, 0 or 1.

        The first always is; later ones are not where the episode ended before, or nothing newer is stored.
        """
        batch = self.batch
        if "sequence_observation" not in batch.extras:
            yield batch.action, batch.next_observation, torch.ones_like(batch.reward)
            return
        columns = (batch.extras[f"sequence_{name}"] for name in ("action", "observation", "valid"))
        for action, following, valid in zip(*(column.unbind(1)[:horizon] for column in columns), strict=True):
            yield action, following, valid.float()

    @property
    def representation(self) -> Tensor | None:
        """What the last layer of the first network reads (B, d), with a graph; None where it has no such layer."""
        return self.result.outputs[0].representation if self.result.outputs else None


class AuxiliaryTask(nn.Module, ABC):
    """A loss per task (M,) beside the agent's, in the parameter group that trains the encoder.

    Its networks are trained in that group, with its optimiser and aggregator. What is saved of it is its state dict:
    anything else that changes is a registered buffer. Parameters that do not require gradients are left alone.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters; those of a subclass derive from these."""

        coefficient: NonNegativeFloat = 1.0  # factor of the loss
        gate: bool = False  # leave it out for a task whose gradient opposes the agent's; thrice the cost of an update

    horizon: int = 0
    """Env steps that it reads from each observation on (`RolloutBuffer.sample`).

    0: nothing of the next observation, nor whether the step to it terminated.
    """
    learns_features: bool = True
    """Whether it needs an encoder with parameters."""
    trains: Literal["encoder", "policy"] = "encoder"
    """The parameter group that it joins is the one that trains this: of SAC the critic's or the actor's."""

    def __init__(self, context: AuxiliaryContext, config: Any):
        """Raises BadInput for a suite or an encoder that it cannot learn with."""
        super().__init__()
        self.config = config
        self.num_tasks = context.spec.num_tasks
        if self.learns_features and not any(True for _ in context.encoder.parameters()):
            raise BadInput(
                f"auxiliary task {context.name!r} trains features, and the encoder here has no parameters; choose "
                "--encoder mlp for vectors, nature or impala for pixels"
            )

    def columns(self, batch: Batch, generator: torch.Generator) -> Mapping[str, Tensor]:
        """What the loss reads beside the batch, such as noise: tensors (B, ...), by the task's own generator.

        Called once per update, outside the graph; `generator` is on the run's device.
        """
        return {}

    @abstractmethod
    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        """Losses (M,), means within each task, 0 for a task without samples. Pure: its randomness is in `columns`."""

    def weight(self) -> Tensor | float:
        """Factor of the losses, () or (M,); the coefficient by default."""
        return self.config.coefficient

    def agent_weight(self) -> Tensor | float:
        """Factor of the agent's own losses in the group, () or (M,), for a task that fades into them."""
        return 1.0

    def inputs(self) -> Mapping[str, str]:
        """Hashes by name of what it learns from beside the environments, such as teachers (`Agent.inputs`)."""
        return {}

    def on_rollout(self, batch: Batch, encode: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
        """What the loss reads in all epochs of a rollout (B,), as targets: tensors (B, ...), among `columns`.

        Called by agents without a replay before they learn from it, outside the graph. Its extra `return` is in reward
        units; `encode` is as in `AuxiliaryInputs`.
        """
        return {}

    def after_step(self, encoder: nn.Module) -> None:
        """Called after each step of the optimiser: for target networks and counters."""


def refuse_wrong_losses(task: AuxiliaryTask, losses: Any) -> Tensor:
    """The losses (M,) that a task gave. Raises WrongResult for anything else."""
    expected = (task.num_tasks,)
    if not isinstance(losses, Tensor) or losses.shape != expected:
        found = f"losses {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise WrongResult(f"returned {found} from forward, expected losses {expected}, one per task")
    return losses


class AuxiliaryMaker(NamedTuple):
    """Makes an auxiliary task of one class for the parameter group that it joins."""

    trains: str  # of the class
    make: Callable[[AuxiliaryContext], AuxiliaryTask]


auxiliary_tasks: Registry[AuxiliaryTask] = Registry("auxiliary task", AuxiliaryTask)
