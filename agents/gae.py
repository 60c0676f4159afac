"""Generalised advantage estimation (Schulman et al., 2016, arXiv:1506.02438, equation 16). Shapes: T time, N slots."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mtrl.types import Batch

ValueFunction = Callable[[Tensor, Tensor], Tensor]
"""(observation (B, ...), task_ids (B,)) -> values (B,)."""


def advantages(batch: Batch, values: Tensor, next_values: Tensor, discount: float, trace_decay: float) -> Tensor:
    """Advantages (T, N) of a rollout in time order, in reward units.

    `values` (T, N) are of the observations, `next_values` (T, N) of the true successors, final observations included:
    a truncated step bootstraps. Where a step both terminates and truncates it terminates: nothing follows. Either ends
    the trace, for the next row belongs to another episode.
    """
    # TD error: r + gamma V(s') - V(s)
    errors = batch.reward + discount * ~batch.terminated * next_values - values
    decays = discount * trace_decay * ~(batch.terminated | batch.truncated)
    following = torch.zeros_like(errors[0])
    backwards = []
    for error, decay in zip(reversed(errors.unbind()), reversed(decays.unbind()), strict=True):
        following = torch.addcmul(error, decay, following)
        backwards.append(following)
    return torch.stack(backwards[::-1])


def rollout_values(value: ValueFunction, rollout: Batch, num_parts: int) -> Tensor:
    """Values (T, N) of the observations of a rollout, computed in parts: they fit into memory if learning does."""
    steps = -(-len(rollout.reward) // num_parts)
    parts = zip(rollout.observation.split(steps), rollout.task_ids.split(steps), strict=True)
    return torch.cat([value(part.flatten(0, 1), tasks.flatten()) for part, tasks in parts]).view_as(rollout.reward)


def successor_values(value: ValueFunction, rollout: Batch, values: Tensor) -> Tensor:
    """Values (T, N) of the true successors, given those of the observations; of terminated steps any number."""
    following = torch.cat([values[1:], torch.zeros_like(values[:1])])
    # The row below has the successor's value but where an episode was cut off and where the rollout ends.
    unknown = rollout.truncated.clone()
    unknown[-1] = True
    unknown &= ~rollout.terminated
    following[unknown] = value(rollout.next_observation[unknown], rollout.task_ids[unknown])
    return following
