"""Generalised advantage estimation (Schulman et al., 2016, arXiv:1506.02438, equation 16). Shapes: T time, N slots."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl.types import Batch


def advantages(batch: Batch, values: Tensor, next_values: Tensor, discount: float, trace_decay: float) -> Tensor:
    """Advantages (T, N) of a rollout in time order, in reward units.

    `values` (T, N) are of the observations, `next_values` (T, N) of the true successors, final observations included:
    a truncated step bootstraps. Where a step both terminates and truncates it terminates: nothing follows. Either ends
    the trace, for the next row belongs to another episode.
    """
    errors = batch.reward + discount * ~batch.terminated * next_values - values
    decays = discount * trace_decay * ~(batch.terminated | batch.truncated)
    following = torch.zeros_like(errors[0])
    backwards = []
    for error, decay in zip(reversed(errors.unbind()), reversed(decays.unbind()), strict=True):
        following = torch.addcmul(error, decay, following)
        backwards.append(following)
    return torch.stack(backwards[::-1])
