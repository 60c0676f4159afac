"""Value replay (Jaderberg et al., 2017, arXiv:1611.05397, section 3.3). Shapes: B batch, M tasks, S stored per task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from mtrl.auxiliary.auxiliary_task import AuxiliaryContext, AuxiliaryInputs, AuxiliaryTask, auxiliary_tasks
from mtrl.errors import BadInput
from mtrl.per_task import mean_per_task
from mtrl.types import Batch


@auxiliary_tasks.register("value-replay")
class ValueReplay(AuxiliaryTask):
    """The value function's error on earlier rollouts, of which a small replay is kept; for agents without a replay.

    The targets are the returns that were estimated when a rollout was collected. Each task has equal room.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(AuxiliaryTask.Config):
        coefficient: NonNegativeFloat = 0.5  # factor of the loss
        size: PositiveInt = 8192  # transitions kept, of all tasks together

    observations: Tensor  # (M, S, *observation)
    returns: Tensor  # (M, S) in reward units
    added: Tensor  # (M,) int64, transitions of each task since the start of the run

    def __init__(self, context: AuxiliaryContext, config: Config):
        super().__init__(context, config)
        if not context.has_values:
            raise BadInput(f"auxiliary task {context.name!r} is for agents that learn from each rollout once, as ppo")
        space = context.spec.observation_space
        self.room = max(1, config.size // self.num_tasks)
        dtype = torch.from_numpy(space.sample()[:0]).dtype
        shape = (self.num_tasks, self.room, *space.shape)
        self.register_buffer("observations", torch.zeros(shape, dtype=dtype))
        self.register_buffer("returns", torch.zeros(shape[:2]))
        self.register_buffer("added", torch.zeros(self.num_tasks, dtype=torch.int64))

    def on_rollout(self, batch: Batch, encode: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
        tasks = batch.task_ids
        order = torch.argsort(tasks, stable=True)
        counts = torch.bincount(tasks, minlength=self.num_tasks)
        rank = torch.arange(len(tasks), device=tasks.device) - (counts.cumsum(0) - counts)[tasks[order]]
        newest = rank >= counts[tasks[order]] - self.room  # a place is written once
        rows, own = order[newest], tasks[order][newest]
        places = (self.added[own] + rank[newest]) % self.room
        self.observations[own, places] = batch.observation[rows]
        self.returns[own, places] = batch.extras["return"][rows]
        self.added += counts
        return {}

    def columns(self, batch: Batch, generator: torch.Generator) -> Mapping[str, Tensor]:
        tasks = batch.task_ids
        stored = self.added.clamp(max=self.room)[tasks]
        places = (torch.rand(len(tasks), generator=generator, device=generator.device) * stored).long()
        return {
            "observation": self.observations[tasks, places],
            "return": self.returns[tasks, places],
            "stored": (stored > 0).float(),
        }

    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        replayed, tasks = inputs.columns, inputs.batch.task_ids
        assert inputs.value_error is not None  # `AuxiliaryContext.has_values`
        error = inputs.value_error(replayed["observation"], tasks, replayed["return"])
        return mean_per_task(replayed["stored"] * error, tasks, self.num_tasks)
