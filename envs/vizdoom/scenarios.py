"""Scenarios, and what the name of a suite stands for; no game needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mtrl.errors import BadInput
from mtrl.registry import nearest

PREFIX = "vizdoom:"
SIZE = 64  # pixels, square
FRAMES = 4  # screens per observation


class Scenario(NamedTuple):
    """One of ViZDoom's scenarios."""

    environment: str  # Gymnasium id
    max_frames: int  # of an episode; a second has 35


SCENARIOS: Mapping[str, Scenario] = {
    "basic": Scenario("VizdoomBasic-v1", 300),
    "deadly-corridor": Scenario("VizdoomDeadlyCorridor-v1", 2100),
    "defend-the-center": Scenario("VizdoomDefendCenter-v1", 2100),
    "defend-the-line": Scenario("VizdoomDefendLine-v1", 2100),
    "health-gathering": Scenario("VizdoomHealthGathering-v1", 2100),
    "health-gathering-supreme": Scenario("VizdoomHealthGatheringSupreme-v1", 2100),
    "my-way-home": Scenario("VizdoomMyWayHome-v1", 2100),
    "predict-position": Scenario("VizdoomPredictPosition-v1", 300),
    "take-cover": Scenario("VizdoomTakeCover-v1", 2100),
}
"""By name, with the time limits of ViZDoom; `defend-the-line` and `take-cover`, which have none, end after 2100 too."""


def parse(name: str) -> tuple[str, ...]:
    """The scenarios of a suite name, in order. Raises BadInput."""
    scenarios = tuple(entry.strip().replace("_", "-") for entry in name.removeprefix(PREFIX).split(","))
    for scenario in scenarios:
        if scenario not in SCENARIOS:
            raise BadInput(
                f"suite {name!r}: unknown scenario {scenario!r}{nearest(scenario, SCENARIOS)}; "
                f"known: {', '.join(SCENARIOS)}"
            )
        if scenarios.count(scenario) > 1:
            raise BadInput(f"suite {name!r} names scenario {scenario!r} twice")
    return scenarios
