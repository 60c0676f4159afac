"""Multiple-gradient descent (Desideri, 2012; Sener and Koltun, 2018, arXiv:1810.04650, equation 3). Shapes: M tasks."""

from __future__ import annotations

from torch import Tensor

from mtrl.aggregation.aggregator import JacobianAggregator, aggregators
from mtrl.aggregation.solvers import shortest_in_hull


@aggregators.register("mgda")
class MGDA(JacobianAggregator):
    """The shortest vector in the convex hull of the gradients: no task's loss rises, small gradients count most.

    Solved exactly instead of by Frank-Wolfe. Gradients are not normalised.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        return shortest_in_hull(gramian)
