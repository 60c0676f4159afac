"""Means within each task, over the rows of all ranks where an update is shared out. Shapes: B batch, M tasks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mtrl.data_parallel.learning import totals


def mean_per_task(values: Tensor, task_ids: Tensor, num_tasks: int) -> Tensor:
    """Mean of values (B, ...) within each task (M, ...); 0 for a task without samples."""
    return _means_and_counts(values, task_ids, num_tasks)[0]


def _means_and_counts(values: Tensor, task_ids: Tensor, num_tasks: int) -> tuple[Tensor, Tensor]:
    """Means (M, ...), and how many samples each task has (M,)."""
    values = values.float() if values.dtype == torch.bfloat16 else values  # which counts to 256
    # Not a product with a (B, M) matrix: there a NaN of one task would be every task's.
    zeros = values.new_zeros(num_tasks, *values.shape[1:])
    counts = values.new_zeros(num_tasks).index_add(0, task_ids, values.new_ones(task_ids.shape))
    sums, counts = totals(zeros.index_add(0, task_ids, values), counts)
    return sums / counts.clamp(min=1).view(-1, *(1 for _ in values.shape[1:])), counts


def tasks_present(task_ids: Tensor, num_tasks: int) -> Tensor:
    """Which tasks are among those of the samples (B,): (M,) bool."""
    (seen,) = totals(torch.zeros(num_tasks, device=task_ids.device).index_fill(0, task_ids, 1.0))
    return seen > 0


def nan_where_absent(values: Tensor, task_ids: Tensor) -> Tensor:
    """The tasks' values (M, ...) for logs: NaN for a task that is not among those of the samples (B,)."""
    seen = tasks_present(task_ids, len(values))
    return torch.where(seen.view(-1, *(1 for _ in values.shape[1:])), values, torch.nan)


def means_per_task(columns: Mapping[str, Tensor], task_ids: Tensor, num_tasks: int) -> dict[str, Tensor]:
    """Means of several values (B, ...) by name in one pass, for logs: NaN for a task without samples."""
    if not columns:
        return {}
    flat = [values.reshape(len(values), -1) for values in columns.values()]
    means, counts = _means_and_counts(torch.cat(flat, dim=1), task_ids, num_tasks)
    means = torch.where(counts.unsqueeze(1) > 0, means, torch.nan)
    parts = means.split([part.shape[1] for part in flat], dim=1)
    return {
        name: part.reshape(num_tasks, *values.shape[1:])
        for (name, values), part in zip(columns.items(), parts, strict=True)
    }
