"""Rows that come as learners mostly draw them: sorted by task, as many of each. Shapes: B rows, M tasks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor


def in_equal_shares(task_ids: Tensor, num_tasks: int) -> bool:
    """Whether rows (B,) are known to be sorted by task, as many of each.

    Nothing is known on a GPU, whose answer would have to be waited for, nor under `vmap`, which reads no values.
    """
    rows = len(task_ids)
    if not task_ids.is_cpu or not rows or rows % num_tasks or is_functorch_wrapped_tensor(task_ids):
        return False
    return torch.equal(task_ids, _equal_shares(rows, num_tasks))


@lru_cache(maxsize=64)
def _equal_shares(rows: int, num_tasks: int) -> Tensor:
    """What is asked for several times per update: kept for the few sizes of batches that a run has."""
    return torch.from_numpy(np.arange(num_tasks).repeat(rows // num_tasks))
