"""Shares in proportion to the distance from the target. Shapes: M tasks.

Not the "proportional sampling" of supervised multi-task learning, which goes by the size of data sets.
"""

from __future__ import annotations

import numpy as np

from mtrl.scheduling.active.active_scheduler import ActiveScheduler
from mtrl.scheduling.scheduler import schedulers


@schedulers.register("distance")
class Distance(ActiveScheduler):
    """A task's share is proportional to its distance m_i from its target; equal shares once all are solved."""

    def shares(self, distances: np.ndarray, ended: np.ndarray) -> np.ndarray:
        total = distances.sum()
        return distances / total if total > 0 else np.full(self.num_tasks, 1 / self.num_tasks)
