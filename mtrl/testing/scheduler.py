"""The contract of a task scheduler, as a function that a plug-in's own tests call. Shapes: M tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import product
from typing import Any, get_args

import numpy as np

from mtrl.checkpoints.state_tree import flatten, unflatten
from mtrl.scheduling import TaskScheduler
from mtrl.seeding import stream
from mtrl.testing.architecture import check_config
from mtrl.testing.attributes import differences, leaves
from mtrl.testing.counting_suite import CountingSuite
from mtrl.testing.generators import global_generators_untouched
from mtrl.types import FinishedEpisode, Score, State, SuiteSpec

ROUNDS = 45
"""How often episodes are observed in a check."""
CASES = (("random", "sample"), ("random", "weight"), ("solved", "sample"), ("failed", "weight"))
"""Kinds of episodes, each with a mode."""


def check_scheduler(cls: type[TaskScheduler], config: Any = None, num_tasks: Sequence[int] = (1, 5)) -> None:
    """Raises AssertionError where a scheduler breaks the contract of `TaskScheduler`.

    `config` is an instance of its Config (default: its defaults), `num_tasks` how many tasks there are in turn. The
    suites have targets; random episodes are observed, and histories in which every task is solved, or none. Both modes
    are tried, whichever the configuration has.
    """
    who = f"{cls.__module__}.{cls.__qualname__}"
    check_config(cls)
    assert issubclass(cls.Config, TaskScheduler.Config), f"{who}: its Config does not derive from TaskScheduler.Config"
    settings = cls.Config() if config is None else config
    for number, score, (kind, mode) in product(num_tasks, get_args(Score), CASES):
        spec, own = suite_with_targets(number, score), dataclasses.replace(settings, mode=mode)
        with global_generators_untouched(who):
            case = _Case(f"{who} ({mode}, {number} tasks, {kind} episodes judged by {score})", cls, own, spec)
            case.check(_histories(number, kind))


def suite_with_targets(num_tasks: int, score: Score = "return") -> SuiteSpec:
    """A suite of the given size in which a mean return of 10, or success, is the target of every task."""
    spec = CountingSuite("counting", CountingSuite.Config(num_tasks=num_tasks), 1).spec
    tasks = tuple(dataclasses.replace(task, target_return=10.0) for task in spec.tasks)
    return dataclasses.replace(spec, tasks=tasks, score=score)


def _histories(num_tasks: int, kind: str) -> list[list[FinishedEpisode]]:
    """What is observed in each round: now and then nothing."""
    generator = stream(1, f"check scheduler {kind}")
    rounds = []
    for _ in range(ROUNDS):
        tasks = generator.integers(num_tasks, size=generator.integers(0, 2 * num_tasks + 1)).tolist()
        low, high = {"random": (-20.0, 30.0), "solved": (20.0, 30.0), "failed": (-1e12, -1.0)}[kind]
        values = generator.uniform(low, high, len(tasks)).tolist()
        rounds.append(
            [
                FinishedEpisode(slot=slot, task=task, variation=0, return_=value, length=5, success=value >= 10)
                for slot, (task, value) in enumerate(zip(tasks, values, strict=True))
            ]
        )
    return rounds


class _Case:
    """One scheduler on one suite."""

    def __init__(self, who: str, cls: type[TaskScheduler], config: Any, spec: SuiteSpec):
        self.who = who
        self.spec = spec
        self.mode = config.mode
        self.make = lambda seed: cls(spec, config, seed)

    def check(self, rounds: Sequence[Sequence[FinishedEpisode]]) -> None:
        scheduler = self.make(1)
        for name, value in (("mode", self.mode), ("num_tasks", self.spec.num_tasks)):
            assert getattr(scheduler, name, None) == value, (
                f"{self.who}: it has no {name} {value!r}; super().__init__ of TaskScheduler takes the constructor's "
                "arguments"
            )
        self._check_weights(scheduler)
        for index, episodes in enumerate(rounds):
            scheduler.on_episodes(episodes)
            self._check_weights(scheduler)
            if index % 20 == 13:
                self._check_reading(scheduler)
                self._check_state(scheduler, rounds[index + 1 :])

    def _check_weights(self, scheduler: TaskScheduler) -> None:
        weights = scheduler.weights()
        assert isinstance(weights, np.ndarray), f"{self.who}: weights() gives a {type(weights).__name__}"
        shape = (self.spec.num_tasks,)
        assert weights.shape == shape, f"{self.who}: weights() gives shape {weights.shape}, not {shape}"
        assert weights.dtype == np.float64, f"{self.who}: weights() gives {weights.dtype}, not float64"
        assert np.all(np.isfinite(weights) & (weights >= 0)), f"{self.who}: weights() gives {weights}"
        assert abs(weights.sum() - 1) < 1e-9, f"{self.who}: the weights sum to {weights.sum()!r}, not 1"

    def _check_reading(self, scheduler: TaskScheduler) -> None:
        before = leaves(scheduler)
        scheduler.weights()
        changed = differences(before, leaves(scheduler))
        assert not changed, f"{self.who}: weights() changes the scheduler: {'; '.join(changed)}"

    def _check_state(self, scheduler: TaskScheduler, rest: Sequence[Sequence[FinishedEpisode]]) -> None:
        original, restored = self.make(2), self.make(3)
        saved = _as_saved(scheduler.state())
        for copy in (original, restored):
            copy.load_state(saved)
        lost = differences(leaves(scheduler), leaves(restored))
        assert not lost, f"{self.who}: state and load_state lose something: {'; '.join(lost)}"
        for episodes in rest[:10]:
            original.on_episodes(episodes)
        assert not differences(leaves(scheduler), leaves(restored)), (
            f"{self.who}: two schedulers that took up one state share what they write to"
        )
        for episodes in rest[:10]:
            restored.on_episodes(episodes)
        assert np.array_equal(original.weights(), restored.weights()), (
            f"{self.who}: after load_state the same episodes lead to other weights"
        )


def _as_saved(state: State) -> State:
    """The state as a checkpoint gives it back."""
    document, values = flatten(state)
    return unflatten(document, {name: value.clone() for name, value in values.items()})
