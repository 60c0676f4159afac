"""Every registered scheduler keeps the contract, and the check finds those that do not. Shapes: M tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import agents
import envs
from mtrl.config.schema import resolve_config
from mtrl.errors import BadInput
from mtrl.scheduling import ActiveScheduler, TaskScheduler, schedulers
from mtrl.scheduling.active.a5c import A5C
from mtrl.scheduling.active.ea4c import EA4C
from mtrl.scheduling.active.ua4c import UA4C
from mtrl.scheduling.fixed import Fixed
from mtrl.scheduling.uniform import Uniform
from mtrl.testing import check_scheduler
from mtrl.types import FinishedEpisode, State, SuiteSpec

ACTIVE = [name for name, cls in schedulers.items() if issubclass(cls, ActiveScheduler)]


def test_these_are_the_schedulers() -> None:
    active = ["a5c", "distance", "dtp", "ea4c", "explicit", "implicit", "smt", "t3s", "ua4c"]
    assert sorted(ACTIVE) == active
    assert sorted(schedulers.names()) == sorted([*active, "fixed", "uniform"])


@pytest.mark.parametrize(
    "name",
    ["uniform", *(pytest.param(name, marks=pytest.mark.slow if name == "ea4c" else ()) for name in ACTIVE)],
)
def test_every_registered_scheduler_keeps_the_contract(name: str) -> None:
    check_scheduler(schedulers.get(name))


def test_fixed_keeps_the_contract() -> None:
    check_scheduler(Fixed, Fixed.Config(weights=(1.0, 0.0, 3.0)), num_tasks=[3])


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (A5C, A5C.Config(min_share=0.0, uniform_episodes=0, window=1, temperature=1e-6)),
        (UA4C, UA4C.Config(min_share=0.0, uniform_episodes=0, discount=0.5, picks=3)),
        pytest.param(
            EA4C,
            EA4C.Config(min_share=0.0, uniform_episodes=0, decisions_per_update=1, learning_rate=1.0),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_extreme_settings_keep_the_contract(cls: type[TaskScheduler], config: Any) -> None:
    check_scheduler(cls, config)


class Forgetful(A5C):
    """Leaves a count out of its state."""

    def __init__(self, spec: SuiteSpec, config: Any, seed: int):
        super().__init__(spec, config, seed)
        self.calls = 0

    def on_episodes(self, episodes: Sequence[FinishedEpisode]) -> None:
        self.calls += 1
        super().on_episodes(episodes)


class Unnormalised(A5C):
    """Shares that sum to more than one."""

    def shares(self, distances: np.ndarray, ended: np.ndarray) -> np.ndarray:
        return 1.1 * super().shares(distances, ended)


class Restless(A5C):
    """Changes when it is read."""

    def weights(self) -> np.ndarray:
        self._played = self._played + 1
        return super().weights()


class Aliasing(A5C):
    """Writes into the state that it was given."""

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self._played = np.asarray(state["played"])


class OwnConstructor(TaskScheduler):
    """Leaves out the constructor of its base, which knows the mode."""

    def __init__(self, spec: SuiteSpec, config: Any, seed: int):
        self.shares = np.full(spec.num_tasks, 1 / spec.num_tasks)

    def on_episodes(self, episodes: Sequence[FinishedEpisode]) -> None:
        pass

    def weights(self) -> np.ndarray:
        return self.shares


class OwnConfig(Uniform):
    """Cannot be told the mode."""

    @dataclass(frozen=True, kw_only=True)
    class Config:  # type: ignore[assignment]
        pass


@pytest.mark.parametrize(
    ("cls", "complaint"),
    [
        (Forgetful, "calls"),
        (Unnormalised, "sum to"),
        (Restless, "changes the scheduler"),
        (Aliasing, "share what they write"),
        (OwnConstructor, "has no mode"),
        (OwnConfig, "does not derive from TaskScheduler.Config"),
    ],
)
def test_a_planted_fault_is_found(cls: type[TaskScheduler], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_scheduler(cls)


NONSENSE = [
    ("a5c", {"mode": "both"}),
    ("uniform", {"mode": None}),
    ("dtp", {"gamma": -1.0}),
    ("dtp", {"min_score": 0.0}),
    ("implicit", {"gamma": 1.5}),  # weights could be negative
    ("implicit", {"alpha": float("nan")}),
    ("t3s", {"epsilon": 0.0}),
    ("t3s", {"speed_episodes": 0}),
    ("smt", {"trained_fraction": 0.0}),
    ("smt", {"solved_score": 1.1}),
    ("smt", {"turn_episodes": 0}),
]


@pytest.mark.parametrize(("name", "settings"), NONSENSE)
def test_a_nonsense_setting_is_refused_in_one_line(name: str, settings: dict[str, Any]) -> None:
    envs.register()
    agents.register()
    with pytest.raises(BadInput, match=rf"^scheduler\.{next(iter(settings))}: [^\n]*$"):
        resolve_config({"suite": "point-mass", "scheduler": {"name": name} | settings})
