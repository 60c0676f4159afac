"""Rows that come as learners mostly draw them: sorted by task, as many of each. Shapes: B rows, M tasks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor


def in_equal_shares(task_ids: Tensor, num_tasks: int) -> bool:
    """Whether rows (B,) are known to be sorted by task, as many of each.

    Nothing is known on a GPU, whose answer would have to be waited for, nor under `vmap`, which reads no values.
    """
    rows = len(task_ids)
    if task_ids.device.type != "cpu" or not rows or rows % num_tasks or is_functorch_wrapped_tensor(task_ids):
        return False
    shares = task_ids.view(num_tasks, -1)
    return torch.equal(shares, torch.arange(num_tasks).view(-1, 1).expand_as(shares))
