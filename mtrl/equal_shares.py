"""Rows that come as learners mostly draw them: sorted by task, as many of each. Shapes: B rows, M tasks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor


def in_equal_shares(task_ids: Tensor, num_tasks: int) -> bool:
    """Whether rows (B,) are known to be sorted by task, as many of each.

    Nothing is known on a GPU, whose answer would have to be waited for, nor under `vmap`, which reads no values.
    """
    rows = task_ids.shape[0]
    if not task_ids.is_cpu or not rows or rows % num_tasks or is_functorch_wrapped_tensor(task_ids):
        return False
    equal = equal_shares(rows, num_tasks)
    return task_ids is equal or torch.equal(task_ids, equal)


@lru_cache(maxsize=64)
def equal_shares(rows: int, num_tasks: int) -> Tensor:
    """The task ids of such rows, on the CPU; `rows` is a multiple of `num_tasks`.

    One tensor for all who ask, several times per update, so it must not be written to.
    """
    return constant(np.arange(num_tasks).repeat(rows // num_tasks))


def constant(values: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """A tensor to be kept, wherever it is made first: under `torch.func` transforms or in inference mode too."""
    with torch.inference_mode(False):
        made = torch.from_numpy(values).to(device)
    while is_functorch_wrapped_tensor(made):
        made = get_unwrapped(made)
    return made
