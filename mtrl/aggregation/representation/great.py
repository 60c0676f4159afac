"""Gradient adversarial training of tasks (Sinha et al., 2018, arXiv:1806.08028, section 3.3).

Shapes: M tasks, B batch, d units of a representation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from mtrl.aggregation.aggregator import aggregators
from mtrl.aggregation.representation.representation_aggregator import RepresentationAggregator, sums_per_task
from mtrl.aggregation.weighting.task_memory import adam_names, adam_step
from mtrl.data_parallel.learning import totals
from mtrl.types import Batch, State


@aggregators.register("great")
class Great(RepresentationAggregator):
    """Scales gradients by 1 + v, one v per task and unit, so that a linear discriminator cannot tell whose they are.

    The discriminator descends its cross-entropy, and v ascends it.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        learning_rate: PositiveFloat = 1e-3  # Adam, of v and the discriminator
        bound: Annotated[float, Field(gt=0, lt=1)] = 0.9  # of |v|: no gradient changes its sign

    def __init__(self, num_tasks: int, config: Config, generator: torch.Generator):
        super().__init__(num_tasks, config, generator)
        self.config = config

    def change(self, gradient: Tensor, representation: Tensor, batch: Batch, index: int) -> Tensor:
        scale, discriminator = f"scale_{index}", f"discriminator_{index}"
        for name in (scale, discriminator) if scale not in self.memory else ():
            zeros = torch.zeros(self.num_tasks, gradient.shape[1], dtype=torch.float64, device=gradient.device)
            self.memory |= {part: zeros.clone() for part in adam_names(name)}
        factor = 1 + self.memory[scale][batch.task_ids].to(gradient)
        changed = gradient * factor
        self._learn(gradient.double(), changed.double(), batch, scale, discriminator)
        return changed

    def _learn(self, gradient: Tensor, changed: Tensor, batch: Batch, scale: str, discriminator: str) -> None:
        """A step of discriminator and v, by the gradient of the mean cross-entropy within tasks."""
        tasks = batch.task_ids
        counts = sums_per_task(gradient.new_ones(len(tasks)), batch)
        # Rows of length sqrt(d): how large a loss is says nothing of its direction.
        length = changed.norm(dim=1, keepdim=True) / changed.shape[1] ** 0.5
        inverse = torch.where(length > 0, 1 / length, 0.0)
        rows = changed * inverse
        logits = (rows @ self.memory[discriminator].T).masked_fill(counts == 0, -torch.inf)
        own = torch.nn.functional.one_hot(tasks, self.num_tasks)
        # d CE / d logits, mean over the tasks of means within a task
        error = (torch.softmax(logits, 1) - own) / (counts[tasks] * (counts > 0).sum()).unsqueeze(1)
        by_scale = sums_per_task(error @ self.memory[discriminator] * inverse * gradient, batch)
        every = torch.arange(self.num_tasks, device=gradient.device)
        (by_discriminator,) = totals(error.T @ rows)
        adam_step(self.memory, discriminator, by_discriminator, every, self.config.learning_rate)
        adam_step(self.memory, scale, -by_scale, every, self.config.learning_rate)
        self.memory[scale].clamp_(-self.config.bound, self.config.bound)

    def load_state(self, state: State) -> None:
        self.memory = {name: kept for name, kept in state.items() if name != "generator"}
        super().load_state(state)
