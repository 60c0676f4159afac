"""Load balancing: slots are shared out so that the workers take about as long, since a step waits for the slowest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def balanced_slots(costs: Sequence[float], num_workers: int) -> list[tuple[int, ...]]:
    """Slots of each worker: the costliest first, each to the worker that has the least to do so far.

    Equal costs deal the slots out in turn. Every worker gets one if there are enough and no cost is zero.
    """
    slots: list[list[int]] = [[] for _ in range(num_workers)]
    loads = np.zeros(num_workers)
    for slot in np.argsort(-np.asarray(costs, np.float64), kind="stable").tolist():
        worker = int(loads.argmin())
        slots[worker].append(slot)
        loads[worker] += costs[slot]
    return [tuple(sorted(of_worker)) for of_worker in slots]
