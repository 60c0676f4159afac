"""Pareto multi-task learning, against numbers worked by hand and a known front."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtrl.aggregation import PresentTasks
from mtrl.aggregation.optimization.pareto_mtl import ParetoMTL
from mtrl.errors import BadInput
from tests.aggregation.gradients import diagonal, gramian, make


def weights(aggregator: ParetoMTL, gramian: Tensor, *losses: float) -> Tensor:
    gauge = torch.tensor(losses, dtype=torch.float64)
    return aggregator.task_weights(gramian, PresentTasks(torch.arange(len(gramian)), gauge))


def test_where_losses_are_as_preferred_it_is_mgda() -> None:
    aggregator = make(ParetoMTL, 2, preference=(1.0, 0.0), spread=1.0)
    assert weights(aggregator, diagonal(1, 4), 2, 1).tolist() == pytest.approx([0.8, 0.2])


def test_a_violated_constraint_adds_its_gradient() -> None:
    # Preferred (1, 0), the other vector (0, 1): the second loss is too large. In the hull of (1, 0), (0, 2) and
    # ((0, 2) - (1, 0)) / sqrt(2), the shortest is 0.6526 of the first and 0.3474 of the last.
    aggregator = make(ParetoMTL, 2, preference=(1.0, 0.0), spread=1.0)
    assert weights(aggregator, diagonal(1, 4), 1, 2).tolist() == pytest.approx(
        [0.6526 - 0.3474 / 2**0.5, 0.3474 / 2**0.5], abs=1e-4
    )


@pytest.mark.parametrize("angle", [0.3, 0.785, 1.3])
def test_descent_ends_where_the_losses_have_the_preferred_ratio(angle: float) -> None:
    # |x - a|^2 / 2 and |x - b|^2 / 2 from a start where the first is 0 or the second is.
    minima = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    direction = torch.tensor([angle], dtype=torch.float64)
    preference = (float(direction.cos()), float(direction.sin()))
    for start in minima:
        aggregator = make(ParetoMTL, 2, preference=preference, spread=0.1)
        x = start.clone() + torch.tensor([0.0, 0.3])
        for _ in range(500):
            jacobian = x - minima
            losses = jacobian.square().sum(1) / 2
            x = x - 0.04 * weights(aggregator, gramian(jacobian), *losses.tolist()) @ jacobian
        assert abs(x[1]) < 0.02
        assert torch.atan2(losses[1], losses[0]).item() == pytest.approx(angle, abs=0.1)


@pytest.mark.parametrize(
    ("preference", "message"), [((1.0,), "1 numbers for 2 tasks"), ((0.0, 0.0), "not all 0")], ids=str
)
def test_a_preference_that_fits_no_tasks_is_refused(preference: tuple[float, ...], message: str) -> None:
    with pytest.raises(BadInput, match=f"aggregator.preference: .*{message}"):
        make(ParetoMTL, 2, preference=preference, spread=0.1)
