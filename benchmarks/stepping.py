"""Env steps per second of our Meta-World MT10 against gymnasium's vector environments, side by side in one run.

All step the ten official environments with the same random actions. A round is 500 vector steps, so each environment is
reset once in it; the rounds take turns, because other load on the machine comes and goes. The bare loop steps the same
environments one after the other in this process, without anything around them: no pool can be faster than the number of
cores times that.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from envs.metaworld.factory import MetaWorldFactory
from envs.metaworld.suite import HORIZON, MetaWorld
from mtrl.episodes import RandomEpisodes

NUM_SLOTS = 10


@dataclass(frozen=True, kw_only=True)
class SteppingRow:
    """What was measured of one way to step MT10."""

    name: str
    setup_seconds: float  # from construction to the first observations; simulator imported before
    env_steps_per_second: tuple[float, ...]  # of every round

    @property
    def median(self) -> float:
        """Env steps per second."""
        return statistics.median(self.env_steps_per_second)

    def ratio_to(self, other: SteppingRow) -> tuple[float, float, float]:
        """Median, least and greatest of the rounds' ratios of speed."""
        pairs = zip(self.env_steps_per_second, other.env_steps_per_second, strict=True)
        ratios = sorted(ours / theirs for ours, theirs in pairs)
        return statistics.median(ratios), ratios[0], ratios[-1]


@dataclass(frozen=True)
class _Contestant:
    name: str
    setup_seconds: float
    step: Callable[[np.ndarray], object]
    close: Callable[[], None]


def measure_stepping(
    rounds: int = 5, vector_steps: int = HORIZON, num_workers: int | None = None, seed: int = 1
) -> list[SteppingRow]:
    """Rows for our pool, Async, Sync and the bare loop, in this order.

    `num_workers` is of our pool, by default the number of cores; Async has one process per environment. Goals are
    cached before the clock starts; gymnasium's set-up draws its goals each time.
    """
    import metaworld  # noqa: F401  registers the vector environments, and is imported before any clock starts

    suite = MetaWorld("mt10", MetaWorld.Config(), seed)
    contestants = [
        _our_pool(suite, num_workers or os.cpu_count() or 1, seed),
        _gymnasium("async", seed),
        _gymnasium("sync", seed),
        _bare_loop(suite),
    ]
    actions = np.random.default_rng(seed).uniform(-1, 1, (vector_steps, NUM_SLOTS, 4)).astype(np.float32)
    speeds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    try:
        for _ in range(rounds):
            for contestant in contestants:
                started = time.perf_counter()
                for action in actions:
                    contestant.step(action)
                speeds[contestant.name].append(vector_steps * NUM_SLOTS / (time.perf_counter() - started))
    finally:
        for contestant in contestants:
            contestant.close()
    return [
        SteppingRow(
            name=contestant.name,
            setup_seconds=contestant.setup_seconds,
            env_steps_per_second=tuple(speeds[contestant.name]),
        )
        for contestant in contestants
    ]


def _our_pool(suite: MetaWorld, num_workers: int, seed: int) -> _Contestant:
    episodes = RandomEpisodes(suite.suite, NUM_SLOTS, seed)
    started = time.perf_counter()
    envs = suite.make_envs(NUM_SLOTS, episodes, mode="train", num_workers=num_workers, worker_timeout=60.0)
    envs.reset()
    return _Contestant(f"ours, {num_workers} workers", time.perf_counter() - started, envs.step, envs.close)


def _gymnasium(strategy: str, seed: int) -> _Contestant:
    started = time.perf_counter()
    envs = gym.make_vec("Meta-World/MT10", vector_strategy=strategy, seed=seed)
    envs.reset()
    name = f"gymnasium {strategy.capitalize()}VectorEnv"
    return _Contestant(name, time.perf_counter() - started, envs.step, envs.close)


def _bare_loop(suite: MetaWorld) -> _Contestant:
    started = time.perf_counter()
    make_slot = MetaWorldFactory(
        task_names=suite.suite.task_names, goals=suite.goals, reward_function="v2", end_at_success=False
    )
    slots = [make_slot() for _ in range(NUM_SLOTS)]
    for task, slot in enumerate(slots):
        slot.begin(task, 0)

    def step(action: np.ndarray) -> None:
        for task, slot in enumerate(slots):
            if slot.step(action[task]).truncated:
                slot.begin(task, 0)

    return _Contestant("bare loop, one process", time.perf_counter() - started, step, lambda: None)


def main() -> None:
    """Prints the rows and our ratios."""
    rows = measure_stepping()
    for row in rows:
        low, high = min(row.env_steps_per_second), max(row.env_steps_per_second)
        print(
            f"{row.name:26} {row.median:7.0f} env steps/s ({low:.0f} to {high:.0f}), set-up {row.setup_seconds:.1f} s"
        )
    for other in rows[1:]:
        median, low, high = rows[0].ratio_to(other)
        print(f"{rows[0].name} / {other.name}: {median:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
