"""The sweep over preference vectors finds the front of a problem that has a known one."""

from __future__ import annotations

import math

import pytest

from benchmarks.pareto_front import sweep


def test_a_sweep_finds_points_of_the_front_in_the_order_of_the_preferences() -> None:
    points = [point for point in sweep(preferences=3, seeds=1, updates=60, step_size=0.3) if point.angle is not None]
    for point in points:
        # On the front, x is between the centers: the distances to them add up to 2.
        distances = [math.sqrt(-math.log(1 - loss)) for loss in (point.first_loss, point.second_loss)]
        assert sum(distances) == pytest.approx(2, abs=0.02)
    first_losses = [point.first_loss for point in points]
    assert first_losses == sorted(first_losses, reverse=True)
    assert first_losses[0] > 0.9
    assert first_losses[-1] < 0.2
