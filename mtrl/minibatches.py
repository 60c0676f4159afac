"""Random parts of a rollout for several epochs of learning. Shapes: T time, N slots, M tasks, B = T N rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from mtrl.types import Batch


def minibatches(batch: Batch, number: int, generator: torch.Generator) -> Iterator[Batch]:
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
    starts = np.cumsum(counts) - counts
    for part in range(number):
        first, stop = counts * part // number, counts * (part + 1) // number
        places = [np.arange(*bounds) for bounds in zip(starts + first, starts + stop, strict=True)]
        ids = order[torch.from_numpy(np.concatenate(places)).to(order.device)]
        yield _selected(batch, ids, stop - first)


def _selected(batch: Batch, ids: torch.Tensor, counts: np.ndarray) -> Batch:
    shares = torch.from_numpy((counts / counts.sum()).astype(np.float32)).to(ids.device)
    rows = batch.map_rows(lambda value: value[ids])
    return replace(rows, counts=tuple(counts.tolist()), shares=shares)
