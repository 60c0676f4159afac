"""Every aggregator learns the small suites to their known optimum. Shapes: M tasks.

A method that needs losses without sign balances SAC's critics, and its actor takes `mean`.
"""

from __future__ import annotations

from typing import Any

import pytest

from agents.ppo import PPO
from agents.sac import SAC
from mtrl.agent import Agent
from mtrl.aggregation import aggregators
from tests.agents.constants import aggregated
from tests.training.test_learning import MARGIN, SMALL_MLP, learn, learn_by_ppo, optimum, point_mass

SUITES = ("point-mass", "point-mass-conflict")
SAMPLE = {(PPO, "point-mass-conflict", "uncertainty"), (PPO, "point-mass-conflict", "mgda-ub")}
"""What runs by default."""
FALLS_SHORT = {(SAC, "point-mass", "focal-speed"), (PPO, "point-mass", "focal-speed")}
"""Measured: `focal-speed` ends 4 to 5 below the optimum. It gives no weight to a task whose loss is above its average,
which is half of the time where losses are noisy and do not fall steadily."""


def marks(case: tuple[Any, ...]) -> list[pytest.MarkDecorator]:
    if case in FALLS_SHORT:
        return [pytest.mark.full, pytest.mark.xfail(reason="see FALLS_SHORT", strict=True)]
    return [] if case in SAMPLE else [pytest.mark.full]


CASES = [
    pytest.param(agent, suite, name, id=f"{agent.__name__}, {suite}, {name}", marks=marks((agent, suite, name)))
    for agent in (SAC, PPO)
    for suite in SUITES
    for name in aggregators.names()
]


@pytest.mark.parametrize(("agent", "name", "aggregator"), CASES)
def test_every_aggregator_learns_to_the_optimum(agent: type[Agent], name: str, aggregator: str) -> None:
    suite = point_mass(name)
    parts: dict[str, Any] = SMALL_MLP | aggregated(agent, aggregators.get(aggregator))
    result = learn(suite, 600, parts) if agent is SAC else learn_by_ppo(suite, 20, parts)
    assert (result.mean_returns >= optimum(suite) - MARGIN).all(), result.mean_returns
