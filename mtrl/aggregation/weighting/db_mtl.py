"""Dual-balancing (Lin et al., 2023, arXiv:2308.12029), without its moving average of gradients.

Shapes: m tasks that take part.
"""

from __future__ import annotations

from torch import Tensor

from mtrl.aggregation.aggregator import JacobianAggregator, PresentTasks, aggregators


@aggregators.register("db-mtl")
class DualBalancing(JacobianAggregator):
    """Gradients of the losses' logarithms, all scaled to the norm of the largest of them; then the mean."""

    needs_gauge = True

    def task_weights(self, gramian: Tensor, tasks: PresentTasks) -> Tensor:
        assert tasks.gauge is not None
        norms = gramian.diagonal().sqrt()
        # g_i / L_i, times (max_k n_k / L_k) / (n_i / L_i)
        return (norms / tasks.gauge).max() / (norms * len(norms))
