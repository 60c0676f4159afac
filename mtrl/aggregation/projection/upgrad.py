"""Projections onto the directions that conflict with no task (Quinton and Rey, 2024, arXiv:2406.16232, section 3.1).

A direction d conflicts with task i where g_i'd < 0. The projection of x = sum_i u_i g_i onto those without conflict is
sum_i v_i g_i, where v >= u minimises v'Gv. Shapes: M tasks.
"""

from __future__ import annotations

from torch import Tensor

from mtrl.aggregation.aggregator import JacobianAggregator, aggregators
from mtrl.aggregation.solvers import definite_cosines, nonnegative_minimum


def project(gramian: Tensor, combinations: Tensor) -> Tensor:
    """Rows u >= 0 (K, M), each a combination of the gradients -> rows v (K, M) of their projections."""
    norms, matrix = definite_cosines(gramian)
    # v = u + x / norms: x >= 0 minimises x'Cx / 2 + (C u)'x, with u in units of 1/norm.
    combinations = combinations * norms
    return (combinations + nonnegative_minimum(matrix, combinations @ matrix)) / norms


@aggregators.register("upgrad")
class UPGrad(JacobianAggregator):
    """Each task's gradient is projected onto the directions without conflict; then the mean. Equation 4."""

    def weights(self, gramian: Tensor) -> Tensor:
        return project(gramian, gramian.new_ones(len(gramian)).diag()).mean(0)


@aggregators.register("dualproj")
class DualProj(JacobianAggregator):
    """The mean gradient is projected onto the directions without conflict. Equation 3."""

    def weights(self, gramian: Tensor) -> Tensor:
        return project(gramian, gramian.new_full((1, len(gramian)), 1 / len(gramian)))[0]
