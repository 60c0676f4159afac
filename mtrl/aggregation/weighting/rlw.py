"""Random loss weighting (Lin et al., 2022, arXiv:2111.10603). Shapes: M tasks, m tasks with samples."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl.aggregation.aggregator import LossWeighting, aggregators


@aggregators.register("rlw")
class RandomLossWeighting(LossWeighting):
    """Softmax of normal random numbers, new ones at every update: the baseline of all weightings."""

    def weights(self, losses: Tensor, tasks: Tensor) -> Tensor:
        drawn = torch.randn(self.num_tasks, generator=self.generator, dtype=torch.float64)
        return len(tasks) * torch.softmax(drawn.to(losses.device)[tasks], 0)
