"""Gradient episodic memory, with all tasks learnt at once instead of one after another. Shapes: M tasks.

In continual learning the gradient of the newest task is projected, and the others are memories. Here the tasks are
equals: `gem` projects their mean, `a-gem` every task's gradient in turn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl.aggregation.aggregator import JacobianAggregator, aggregators
from mtrl.aggregation.projection.upgrad import DualProj


@aggregators.register("gem")
class GEM(DualProj):
    """The mean gradient is projected so that no task's loss rises (Lopez-Paz and Ranzato, 2017, arXiv:1706.08840).

    With the mean as the gradient of equation 11, this is `dualproj` under its older name. The paper's margin would only
    scale the result, and is left out.
    """


@aggregators.register("a-gem")
class AGEM(JacobianAggregator):
    """Each task's gradient is projected against the mean of the others'; then the mean.

    Chaudhry et al., 2019, arXiv:1812.00420, equation 11, where the memories are the other tasks.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        num_tasks = len(gramian)
        equal = torch.eye(num_tasks, dtype=gramian.dtype)
        others = (1 - equal) / max(1, num_tasks - 1)  # row i: the mean without task i
        inner = (others @ gramian).diagonal()
        squared_norms = (others @ gramian @ others.T).diagonal()
        # Gradients whose sum is 0 leave rounding errors.
        conflict = (inner < 0) & (squared_norms > 1e-14 * gramian.diagonal().amax())
        factors = torch.where(conflict, inner / squared_norms, 0.0)
        return (equal - factors[:, None] * others).mean(0)
