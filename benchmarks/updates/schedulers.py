"""Microseconds per decision of every scheduler: `observe` of one finished episode and reading the weights.

57 tasks (all of Atari) that have all been played, episodes of random tasks with random returns; the mean over many
decisions, so that the meta-learner's updates count with their share, and its slowest one. Contestants take turns; what
counts is the processor time of this thread, which other load on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.repeats import Repeats
from mtrl.scheduling import TaskScheduler, schedulers
from mtrl.scheduling.fixed import Fixed
from mtrl.seeding import stream
from mtrl.testing.scheduler import suite_with_targets
from mtrl.types import FinishedEpisode

NUM_TASKS = 57


@dataclass(frozen=True, kw_only=True)
class DecisionTimes:
    """What was measured of one scheduler, in microseconds."""

    mean: Repeats  # over the decisions of a repeat
    slowest: Repeats
    reading: Repeats  # the weights alone, when no episode has ended


def measure_decisions(repeats: int = 5, decisions: int = 500) -> Mapping[str, DecisionTimes]:
    """Every repeat takes `decisions` decisions of each scheduler."""
    contestants = {name: _warmed_up(name) for name in schedulers.names()}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in contestants}
    for repeat in range(repeats):
        episodes = _episodes(decisions, repeat)
        for name, scheduler in contestants.items():
            found[name].append(_measure(scheduler, episodes))
    return {
        name: DecisionTimes(
            **{kind: Repeats(tuple(values)) for kind, values in zip(_KINDS, zip(*rows, strict=True), strict=True)}
        )
        for name, rows in found.items()
    }


_KINDS = ("mean", "slowest", "reading")


def _warmed_up(name: str) -> TaskScheduler:
    """A scheduler that has left its uniform phase."""
    spec = suite_with_targets(NUM_TASKS)
    cls = schedulers.get(name)
    config = Fixed.Config(weights=NUM_TASKS * (1.0,)) if cls is Fixed else cls.Config()
    scheduler = cls(spec, config, 1)
    every_task = [FinishedEpisode(task, task, 0, 5.0, 100, False) for task in range(NUM_TASKS)]
    for _ in range(20):
        scheduler.on_episodes(every_task)
    return scheduler


def _episodes(number: int, seed: int) -> list[FinishedEpisode]:
    generator = stream(seed, "scheduling benchmark")
    tasks, returns = generator.integers(NUM_TASKS, size=number), generator.uniform(0, 12, number)
    return [
        FinishedEpisode(slot=0, task=task, variation=0, return_=return_, length=100, success=False)
        for task, return_ in zip(tasks.tolist(), returns.tolist(), strict=True)
    ]


def _measure(scheduler: TaskScheduler, episodes: list[FinishedEpisode]) -> tuple[float, float, float]:
    """Mean and slowest decision, and a reading of the weights, in microseconds."""
    seconds = np.zeros(len(episodes))
    for index, episode in enumerate(episodes):
        started = time.thread_time()
        scheduler.on_episodes([episode])
        scheduler.weights()
        seconds[index] = time.thread_time() - started
    started = time.thread_time()
    for _ in episodes:
        scheduler.on_episodes([])
        scheduler.weights()
    reading = (time.thread_time() - started) / len(episodes)
    return 1e6 * float(seconds.mean()), 1e6 * float(seconds.max()), 1e6 * reading


def report(times: Mapping[str, DecisionTimes]) -> str:
    """One line per scheduler."""
    return "\n".join(
        f"{name:13} {own.mean.shown(1)} us per decision, slowest {own.slowest.median:.0f} us, "
        f"{own.reading.median:.2f} us where no episode has ended"
        for name, own in times.items()
    )


def main() -> None:
    """Prints the times."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--decisions", type=int, default=500, help="per repeat")
    arguments = parser.parse_args()
    print(report(measure_decisions(arguments.repeats, arguments.decisions)))


if __name__ == "__main__":
    main()
