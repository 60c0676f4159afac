"""Conflict-free inverse gradients (Liu et al., 2024, arXiv:2408.11104, equations 2 and 3), on the Gramian.

The paper's length is the sum of the gradients' projections; here it is their mean, so that equal gradients give `mean`.
Shapes: M tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl.aggregation.aggregator import JacobianAggregator, aggregators
from mtrl.aggregation.solvers import cosines, pseudo_inverse


@aggregators.register("config")
class ConFIG(JacobianAggregator):
    """The direction that has the same cosine with every task's gradient, as long as their mean projection on it.

    Where only 0 has (two opposite gradients), the update is 0.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        norms, matrix = cosines(gramian)
        x = pseudo_inverse(matrix).sum(1) / norms
        squared_length = x @ gramian @ x
        if squared_length <= 0:
            return torch.zeros_like(x)
        return x * (gramian @ x).mean() / squared_length
