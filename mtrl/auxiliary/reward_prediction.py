"""Reward prediction (Jaderberg et al., 2017, arXiv:1611.05397, section 3.2). Shapes: B batch, F features, M tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F

from mtrl.auxiliary.auxiliary_task import AuxiliaryContext, AuxiliaryInputs, AuxiliaryTask, auxiliary_tasks
from mtrl.data_parallel.learning import totals
from mtrl.networks.layers import TaskHeads, one_hot

NUM_CLASSES = 3
"""Negative, zero, positive."""


@auxiliary_tasks.register("reward-prediction")
class RewardPrediction(AuxiliaryTask):
    """The sign of the next reward, predicted from the features; every sign counts alike, however rare."""

    @dataclass(frozen=True, kw_only=True)
    class Config(AuxiliaryTask.Config):
        zero: NonNegativeFloat = 0.0  # rewards up to this size count as zero

    def __init__(self, context: AuxiliaryContext, config: Config):
        super().__init__(context, config)
        self.zero = config.zero
        self.heads = TaskHeads(context.encoder.out_features, NUM_CLASSES, self.num_tasks)

    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        reward, tasks = inputs.batch.reward, inputs.batch.task_ids
        classes = 1 + (reward > self.zero).long() - (reward < -self.zero).long()
        return balanced_cross_entropy(self.heads(inputs.features, tasks), classes, tasks, self.num_tasks)


def balanced_cross_entropy(logits: Tensor, classes: Tensor, task_ids: Tensor, num_tasks: int) -> Tensor:
    """Cross-entropies (M,) of logits (B, C) for classes (B,): the mean over a task's classes of the means within each.

    A sample of class c weighs 1 / (C_i n_ic): task i has n_ic samples of c, and C_i classes that it has samples of.
    """
    own = one_hot(classes, logits.shape[-1])
    error = F.cross_entropy(logits, classes, reduction="none")
    (counts,) = totals(own.new_zeros(num_tasks, own.shape[1]).index_add(0, task_ids, own))  # n_ic
    present = (counts > 0).sum(1).clamp(min=1)  # C_i
    weight = (own / counts.clamp(min=1)[task_ids]).sum(1) / present[task_ids]
    (losses,) = totals(torch.zeros_like(present, dtype=error.dtype).index_add(0, task_ids, weight * error))
    return losses
