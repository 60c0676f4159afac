"""Random parts of a rollout for several epochs of learning. Shapes: T time, N slots, M tasks, B = T N rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mtrl.equal_shares import equal_shares
from mtrl.types import Batch


@dataclass(frozen=True)
class Minibatch:
    """Which rows of a batch to learn from together."""

    rows: Tensor  # (b,) int64, sorted by task
    shares: Tensor  # (M,) float32
    counts: tuple[int, ...]  # rows per task

    def of(self, batch: Batch) -> Batch:
        """These rows of the batch."""
        rows = batch.map_rows(lambda value: value[self.rows])
        task_ids = rows.task_ids
        if task_ids.is_cpu and len(set(self.counts)) == 1:
            task_ids = equal_shares(len(task_ids), len(self.counts))  # which is known at sight
        return replace(rows, task_ids=task_ids, counts=self.counts, shares=self.shares)


def minibatches(batch: Batch, number: int, generator: torch.Generator) -> Iterator[Minibatch]:
    """Deals rows (B,) at random into `number` batches, each sorted by task and with its share of every task's rows.

    The shares are equal to one row per task. Every row is in exactly one of them; a batch whose tasks all have fewer
    rows than `number` is dealt into as many as its largest task has rows.
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
        yield Minibatch(rows, own_shares, tuple(own))
