"""Distillation as an auxiliary task: teachers beside the agent's own loss. Shapes: B batch, M tasks.

With teacher annealing (Clark et al., 2019, arXiv:1907.04829: born-again multi-task networks) the loss is

    (1 - l) L_distillation + l L_agent,    l = min(1, t / T),

so that the student begins as its teachers are and can outgrow them. Where the agent's loss counts in full throughout,
it is kickstarting (Schmitt et al., 2018, arXiv:1803.03835).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium as gym
import torch
from pydantic import Field
from torch import Tensor

from agents.distillation.losses import Divergence, imitation_loss
from agents.distillation.teachers import Teachers
from mtrl.auxiliary import AuxiliaryContext, AuxiliaryInputs, AuxiliaryTask, auxiliary_tasks
from mtrl.errors import BadInput
from mtrl.per_task import mean_per_task
from mtrl.types import Batch


@auxiliary_tasks.register("distillation")
class Distillation(AuxiliaryTask):
    """The divergence of the agent's policy from that of teachers, which fades while it learns."""

    trains = "policy"
    learns_features = False

    @dataclass(frozen=True, kw_only=True)
    class Config(AuxiliaryTask.Config):
        teachers: tuple[str, ...] = ()  # runs that teach the tasks they know, or TASK=RUN
        teacher_checkpoint: str = "latest"  # of every teacher: latest, best or a step
        divergence: Divergence = "forward"  # KL from teacher to student, the reverse, or the squared error of modes
        temperature: Annotated[float, Field(gt=0)] = 1.0  # of the teachers' policies; below 1 they are sharper
        annealing_steps: Annotated[int, Field(ge=1)] | None = 10_000  # gradient steps until it is gone; None: it stays
        anneals_agent: bool = True  # the agent's loss grows as this one fades; False: it counts in full (kickstarting)

    def __init__(self, context: AuxiliaryContext, config: Config):
        super().__init__(context, config)
        if isinstance(context.spec.action_space, gym.spaces.Discrete) and config.divergence == "modes":
            flag = f"auxiliary.{context.name}.divergence"
            raise BadInput(f"{flag}: 'modes' is for continuous actions; must be forward or reverse")
        self.teachers: Teachers | None = None
        self.num_steps = 0  # gradient steps begun
        self._faded: Tensor | None = None  # l, a tensor: a captured graph reads it anew
        if context.learning:
            self.teachers = Teachers(
                config.teachers,
                context.spec,
                config.teacher_checkpoint,
                torch.device(context.device),
                flag=f"--auxiliary.{context.name}.teachers",
            )
            self.by_modes = config.divergence == "modes" or self.teachers.by_modes(context.policy.head)

    def columns(self, batch: Batch, generator: torch.Generator) -> Mapping[str, Tensor]:
        assert self.teachers is not None
        if self.config.annealing_steps is not None:
            faded = min(1.0, self.num_steps / self.config.annealing_steps)
            if self._faded is None:
                self._faded = torch.zeros((), device=batch.reward.device)
            self._faded.fill_(faded)
            if faded == 1:  # nobody is asked any more
                return {}
        self.num_steps += 1
        return self.teachers.columns(batch.observation, batch.own_counts)

    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        tasks, config = inputs.batch.task_ids, self.config
        if not inputs.columns:
            return inputs.batch.reward.new_zeros(self.num_tasks)
        by_modes = self.by_modes if isinstance(self.by_modes, bool) else self.by_modes[tasks]
        loss = imitation_loss(
            inputs.result.distribution, inputs.columns, by_modes, config.divergence, config.temperature
        )
        return mean_per_task(loss, tasks, self.num_tasks)

    def weight(self) -> Tensor | float:
        return self.config.coefficient * (1.0 if self._faded is None else 1.0 - self._faded)

    def agent_weight(self) -> Tensor | float:
        return 1.0 if self._faded is None or not self.config.anneals_agent else self._faded

    def inputs(self) -> Mapping[str, str]:
        return {} if self.teachers is None else self.teachers.sha256

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.num_steps)

    def set_extra_state(self, state: Any) -> None:
        self.num_steps = int(state)
