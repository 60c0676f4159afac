"""Weights of another run at the start of a new one: what fits by name and shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mtrl.agent import Agent
from mtrl.checkpoints.store import CheckpointStore
from mtrl.errors import BadInput
from mtrl.policies import AveragedPolicy
from mtrl.runs.run_directory import RunDirectory


class WarmStart(NamedTuple):
    """What was taken from a run."""

    run: str
    step: int  # env steps of its checkpoint
    taken: tuple[str, ...]  # tensors of the new agent that have its values
    other_shape: tuple[str, ...]  # those that it has in another shape
    new: tuple[str, ...]  # those that it does not have
    num_unused: int  # tensors of the run that have no place in the new agent

    def __str__(self) -> str:
        """A line for a person."""
        total = len(self.taken) + len(self.other_shape) + len(self.new)
        parts = [
            f"{what}: {_listed(names)}"
            for what, names in (("of another shape", self.other_shape), ("not in that run", self.new))
            if names
        ]
        fitted = f"warm start from {self.run}, step {self.step}: {len(self.taken)} of {total} tensors fit"
        return "; ".join([f"{fitted}, {self.num_unused} of that run are not used", *parts])


@torch.no_grad()
def warm_start(agent: Agent, run_dir: str) -> WarmStart:
    """Gives the agent the values that the last checkpoint of a run has under the same names and in the same shapes.

    The policy of another kind of agent has other names, but the same ones in the average that each agent keeps
    (`AveragedPolicy`): a newest policy that finds nothing takes what its average found. Optimizers, counters and random
    streams are new. Raises BadInput if nothing fits.
    """
    run = RunDirectory.open(run_dir)
    checkpoint = CheckpointStore(run.checkpoints).load("latest", with_chunks=False)
    state = checkpoint.state.get("agent", {})
    stored = {name: value for name, value in state.get("modules", {}).items() if isinstance(value, Tensor)}
    own = {name: value for name, value in agent.state_dict().items() if not name.endswith("_extra_state")}
    taken = {name for name, value in own.items() if name in stored and stored[name].shape == value.shape}
    for name in taken:
        own[name].copy_(stored[name])
    names = {value.data_ptr(): name for name, value in own.items() if value.numel()}
    for newest, average in _averages(agent):
        newest_name, average_name = (names.get(value.data_ptr(), "") for value in (newest, average))
        if newest_name not in taken and newest_name not in stored and average_name in taken:
            newest.copy_(average)
            taken.add(newest_name)
    if not taken:
        raise BadInput(f"warm_start: nothing of {run_dir} (step {checkpoint.step}) fits this agent by name and shape")
    missed = [name for name in own if name not in taken]
    unused = [name for name in stored if name not in own and not name.endswith("_extra_state")]
    return WarmStart(
        run_dir,
        checkpoint.step,
        tuple(name for name in own if name in taken),
        tuple(name for name in missed if name in stored),
        tuple(name for name in missed if name not in stored),
        len(unused),
    )


def _averages(agent: Agent) -> Iterator[tuple[Tensor, Tensor]]:
    """Parameters and buffers of the newest policies of an agent, each with its average."""
    for module in agent.modules():
        if isinstance(module, AveragedPolicy):
            yield from module.pairs()


def _listed(names: tuple[str, ...], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
