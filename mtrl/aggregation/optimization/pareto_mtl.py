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
    the others are made from the run's own: one for each task, moved towards the axis of its loss. The paper first looks
    for a point near the own vector (equation 12), which nearly any start needs: on the Pareto set there is no way
    back to it. Here every update does so from which the losses lie beyond another vector.
    Losses are those of the gauge. Where a parameter group has further loss terms, they are in the gradients alone.
    """

    needs_gauge = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        preference: tuple[NonNegativeFloat, ...] = ()  # ratio of the tasks' losses aimed at; empty: equal losses
        spread: Annotated[float, Field(gt=0, le=1)] = 1.0  # how far the ratio may be missed; noisy losses need it wide

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
    violated; of the constraints alone where the losses lie beyond a k_j.
    """
    axes = torch.eye(len(losses), dtype=losses.dtype)
    own = torch.nn.functional.normalize(preference, dim=0)
    others = torch.nn.functional.normalize(preference + spread * (axes - preference), dim=1)
    differences = others - own
    violations = differences @ losses / losses.norm()
    beyond = (violations > 1 - others @ own).any()
    # Of length 1: how near the other vectors are must not decide how much a constraint counts.
    constraints = torch.nn.functional.normalize(differences, dim=1)
    # A constraint whose gradient is 0, such as that between equal gradients, cannot be served.
    served = ((constraints @ gramian) * constraints).sum(1) > 1e-12 * gramian.diagonal().amax()
    active = constraints[(violations > 0) & served]
    rows = active if beyond and len(active) else torch.cat((axes, active))
    return shortest_in_hull(rows @ gramian @ rows.T) @ rows
