"""Aligned-MTL (Senushkin et al., 2023, arXiv:2305.19000, equation 11 and algorithm 1). Shapes: M tasks."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl.aggregation.aggregator import JacobianAggregator, aggregators
from mtrl.aggregation.solvers import ROUNDING


@aggregators.register("aligned-mtl")
class AlignedMTL(JacobianAggregator):
    """The mean of gradients made orthogonal and equally long, as long as the least principal component.

    Components below the rounding of float32 are left out, as in the authors' code.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        eigenvalues, eigenvectors = torch.linalg.eigh(gramian)
        kept = eigenvalues > len(gramian) * ROUNDING * eigenvalues[-1]
        eigenvalues, eigenvectors = eigenvalues[kept], eigenvectors[:, kept]
        # B = sqrt(l_min) V diag(l^-1/2) V', a = B u
        return eigenvectors @ ((eigenvalues[0] / eigenvalues).sqrt() * eigenvectors.mean(0))
