"""Minibatches of a rollout, for several epochs of learning. Shapes: T time, N slots, M tasks, B = T N samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from mtrl.types import Batch


def minibatches(batch: Batch, number: int, generator: torch.Generator) -> Iterator[Batch]:
    """Deals samples (B,) at random into `number` batches, each sorted by task and with its share of every task.

    The shares are equal to within one sample per task. Every sample is in exactly one of the batches; if all tasks have
    fewer samples than `number`, there are as many batches as the largest task has samples.
    """
    # Whole parts order by task, fractions at random within it: one sort, wherever the batch lives. Single precision
    # below 1 is exact in a double sum, so no row is rounded into the next task.
    keys = batch.task_ids + torch.rand(len(batch.task_ids), generator=generator, device=generator.device).double()
    order = keys.argsort()
    counts = np.asarray(batch.counts)
    number = min(number, int(counts.max()))
    bounds = counts * np.arange(number + 1)[:, None] // number  # (parts + 1, M) within each task's rows
    starts = np.cumsum(counts) - counts + bounds
    places = [np.arange(*span) for first, stop in pairwise(starts) for span in zip(first, stop, strict=True)]
    order = order[torch.from_numpy(np.concatenate(places)).to(order.device)]
    parts = np.diff(bounds, axis=0)
    shares = torch.from_numpy((parts / parts.sum(1, keepdims=True)).astype(np.float32)).to(order.device)
    for rows, own, own_shares in zip(order.split(parts.sum(1).tolist()), parts.tolist(), shares, strict=True):
        yield replace(batch.map_columns(lambda column, rows=rows: column[rows]), shares=own_shares, counts=tuple(own))  # type: ignore[misc]
