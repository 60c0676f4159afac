"""Projecting conflicting gradients (Yu et al., 2020, arXiv:2001.06782, algorithm 1), on the Gramian.

The paper sums the projected gradients; here they are averaged, so that without conflict PCGrad equals `mean`.
Shapes: M tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl.aggregation.aggregator import JacobianAggregator, aggregators


@aggregators.register("pcgrad")
class PCGrad(JacobianAggregator):
    """Each task's gradient loses its components against the others', in random order; then the mean."""

    def weights(self, gramian: Tensor) -> Tensor:
        # All tasks are projected at once: step s removes from task i what conflicts with its s-th other task.
        num_tasks = len(gramian)
        order = torch.rand(num_tasks, num_tasks, generator=self.generator).argsort(1)
        combination = torch.eye(num_tasks, dtype=gramian.dtype)  # row i: task i's gradient in terms of all
        tasks = torch.arange(num_tasks)
        squared_norms = gramian.diagonal()
        for others in order.T:
            inner = (combination @ gramian)[tasks, others]
            conflict = (inner < 0) & (others != tasks)
            combination[tasks, others] -= torch.where(conflict, inner / squared_norms[others], 0.0)
        return combination.mean(0)
