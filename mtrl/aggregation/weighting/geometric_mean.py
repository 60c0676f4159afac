"""The geometric mean of the losses (Chennupati et al., 2019, arXiv:1904.08492). Shapes: m tasks with samples."""

from __future__ import annotations

from torch import Tensor

from mtrl.aggregation.aggregator import LossWeighting, aggregators


@aggregators.register("geometric-mean")
class GeometricMean(LossWeighting):
    """The gradient of the losses' geometric mean GM, times m: weights GM / L_i. Losses of any scale count alike."""

    needs_gauge = True

    def weights(self, losses: Tensor, tasks: Tensor) -> Tensor:
        logarithms = losses.log()
        return (logarithms.mean() - logarithms).exp()
