"""Pareto multi-task learning (Lin et al., 2019, arXiv:1912.12854, equation 14). Shapes: M tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from mtrl.aggregation.aggregator import JacobianAggregator, PresentTasks, aggregators
from mtrl.aggregation.solvers import shortest_in_hull
from mtrl.errors import BadInput


@aggregators.register("pareto-mtl")
class ParetoMTL(JacobianAggregator):
    """A trade-off between the tasks: MGDA towards losses in the ratio of a preference vector.

    The paper divides the losses among several preference vectors, and a run stays where its own is the nearest. Here
    the others are made from the run's own: one for each task, moved towards the axis of its loss. There is no phase
    before the descent that looks for a first feasible point: a violated constraint takes part in it from the start.
    Losses are those of the gauge. Where a parameter group has further loss terms, they are in the gradients alone.
    """

    needs_gauge = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        preference: tuple[NonNegativeFloat, ...] = ()  # ratio of the tasks' losses aimed at; empty: equal losses
        spread: Annotated[float, Field(gt=0, le=1)] = 0.1  # how far the ratio may be missed; 1: up to other axes

    def __init__(self, num_tasks: int, config: Config, generator: torch.Generator):
        super().__init__(num_tasks, config, generator)
        preference = torch.tensor(config.preference or [1.0] * num_tasks, dtype=torch.float64)
        if len(preference) != num_tasks:
            raise BadInput(f"aggregator.preference: {len(preference)} numbers for {num_tasks} tasks")
        if not (preference.isfinite().all() and preference.any()):
            raise BadInput("aggregator.preference: must be finite and not all 0")
        self.config = config
        self.preference = preference / preference.norm()

    def task_weights(self, gramian: Tensor, tasks: PresentTasks) -> Tensor:
        assert tasks.gauge is not None
        return pareto_weights(gramian, tasks.gauge, self.preference[tasks.indices], self.config.spread)


def pareto_weights(gramian: Tensor, losses: Tensor, preference: Tensor, spread: float) -> Tensor:
    """Weights (M,) of the gradients, from inner products (M, M), losses (M,) and a preference vector (M,).

    The shortest vector in the hull of the tasks' gradients and of those of the constraints (k_j - k_p)'L <= 0 that are
    violated.
    """
    axes = torch.eye(len(losses), dtype=losses.dtype)
    others = torch.nn.functional.normalize(preference + spread * (axes - preference), dim=1)
    constraints = others - torch.nn.functional.normalize(preference, dim=0)  # rows k_j - k_p
    active = (constraints @ losses >= 0) & (
        # A constraint whose gradient is 0, such as that between equal gradients, cannot be served.
        ((constraints @ gramian) * constraints).sum(1) > 1e-12 * gramian.diagonal().amax()
    )
    rows = torch.cat((axes, constraints[active]))
    return shortest_in_hull(rows @ gramian @ rows.T) @ rows
