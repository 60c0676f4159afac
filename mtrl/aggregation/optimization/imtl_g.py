"""Impartial multi-task learning, its gradient part (Liu et al., 2021, ICLR, equation 6). Shapes: M tasks."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl.aggregation.aggregator import JacobianAggregator, aggregators
from mtrl.aggregation.solvers import cosines, pseudo_inverse


@aggregators.register("imtl-g")
class IMTLG(JacobianAggregator):
    """The combination of sum 1 that has the same projection on every task's gradient.

    Weights may be negative, and are large where the gradients nearly cancel. The pseudo-inverse is that of the cosines,
    so dependent gradients share their weight in units of 1/norm. Where there is no such combination, `mean`.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        norms, matrix = cosines(gramian)
        weights = pseudo_inverse(matrix).sum(1) / norms
        total = weights.sum()
        if total.abs() <= 1e-6 * (1 / norms).mean():
            return torch.full_like(weights, 1 / len(weights))
        return weights / total
