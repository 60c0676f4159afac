"""Milliseconds per SAC update of every registered aggregator against `mean`, and those of its solver.

python -m benchmarks.updates.aggregators [--only NAMES] [--suites mt10 mt50] [--repeats 5] [--updates 4]
    [--threads 1] [--processor-time] [--output FILE]

Multi-head, 3 x 400, 128 transitions per task, two critics; an update is one gradient step of critics, actor and
temperatures and one of the target average, the drawing of the batch from a filled buffer included. A method that needs
positive losses balances the critics, and the actor takes `mean`. Contestants take turns, so that ratios hold on a
machine that is doing something else, and milliseconds do not. The solver is what happens on the Gramian, per update.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine_facts, prepare_process
from benchmarks.repeats import Repeats, interleaved_milliseconds
from benchmarks.updates.sac import MULTI_HEAD, LearningAgent, UpdateSizes, learning_agent
from mtrl.aggregation import GradientAggregator, JacobianAggregator, LossWeighting, aggregators
from mtrl.runs.metadata import program_facts

TARGETS: Mapping[str, Mapping[str, float]] = {
    "mt10": {"weighting": 1.02, "representation": 1.1, "gradient": 1.3, "famo": 1.35},
    "mt50": {"weighting": 1.02, "representation": 1.1, "gradient": 2.0, "famo": 1.35},
}
"""Most that an update may take, in updates of `mean`."""
BASELINE = "mean"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One aggregator on one suite."""

    name: str
    suite: str
    update: Repeats  # milliseconds
    ratio: Repeats  # to `mean`
    solver: float  # milliseconds per update on the Gramian, 0 for methods without one

    @property
    def target(self) -> float:
        return TARGETS.get(self.suite, TARGETS["mt10"])[kind_of(self.name)]

    def json(self) -> dict[str, Any]:
        return {
            "suite": self.suite,
            "milliseconds": self.update.json(),
            "ratio_to_mean": self.ratio.json(),
            "solver_milliseconds": self.solver,
            "target_of_ratio": self.target,
        }


def kind_of(name: str) -> str:
    """Which target is that of the aggregator."""
    cls = aggregators.get(name)
    if name == "famo":
        return name
    if issubclass(cls, JacobianAggregator):
        return "gradient"
    return "weighting" if name == BASELINE or issubclass(cls, LossWeighting) else "representation"


class Stopwatch:
    """Seconds that an aggregator's solver has taken."""

    def __init__(self, aggregator: GradientAggregator, clock: Callable[[], float]):
        self.seconds = 0.0
        if isinstance(aggregator, JacobianAggregator):
            solve = aggregator.task_weights

            def timed(*given: Any) -> Any:
                started = clock()
                weights = solve(*given)
                self.seconds += clock() - started
                return weights

            aggregator.task_weights = timed  # type: ignore[method-assign, assignment]


def measure(
    names: Sequence[str],
    suite: str,
    repeats: int = 5,
    updates_per_repeat: int = 4,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """Every aggregator, `mean` first; clock as in `interleaved_milliseconds`."""
    sizes = UpdateSizes(suite=suite)
    mean = learning_agent(MULTI_HEAD, sizes)
    sizes = UpdateSizes(suite=suite, batch_size=128 * mean.agent.spec.num_tasks)
    ours: dict[str, LearningAgent] = {}
    for name in (BASELINE, *(name for name in names if name != BASELINE)):
        own: dict[str, Any] = {"name": name}
        if aggregators.get(name).needs_gauge:
            own["actor"] = BASELINE
        ours[name] = replace(learning_agent(MULTI_HEAD, sizes, aggregator=own), buffer=mean.buffer)
    watches = {
        name: [Stopwatch(group.aggregator, clock) for group in one.agent.groups().values()]
        for name, one in ours.items()
    }
    calls = {name: one.update for name, one in ours.items()}
    milliseconds = interleaved_milliseconds(calls, repeats, updates_per_repeat, clock)
    updates = repeats * updates_per_repeat + 2
    return [
        Row(
            name=name,
            suite=suite,
            update=milliseconds[name],
            ratio=milliseconds[name].ratio_to(milliseconds[BASELINE]),
            solver=1e3 * sum(watch.seconds for watch in watches[name]) / updates,
        )
        for name in ours
    ]


def table(rows: Sequence[Row]) -> str:
    """Milliseconds and ratios, with a mark where a ratio is above its target."""
    lines = [f"{'suite':6} {'aggregator':16} {'update ms':>24} {'solver ms':>9}   update / mean"]
    for row in rows:
        mark = f"  above {row.target}" if row.ratio.median > row.target else ""
        lines.append(
            f"{row.suite:6} {row.name:16} {row.update.shown(1):>24} {row.solver:9.2f}   {row.ratio.shown(3)}{mark}"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints the table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--only", nargs="+", default=aggregators.names(), metavar="NAME", choices=aggregators.names())
    parser.add_argument("--suites", nargs="+", default=["mt10", "mt50"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--updates", type=int, default=4, help="per repeat")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--processor-time", action="store_true", help="of this process, for a busy machine")
    arguments = parser.parse_args()
    prepare_process(arguments.threads)
    clock = time.process_time if arguments.processor_time else time.perf_counter
    rows = []
    for suite in arguments.suites:
        rows += measure(arguments.only, suite, arguments.repeats, arguments.updates, clock)
    print(table(rows))
    if arguments.output is not None:
        command = f"python -m benchmarks.updates.aggregators {shlex.join(_flags(arguments))}"
        facts = {
            "command": command,
            "machine": machine_facts(),
            "program": program_facts(),
            "threads": arguments.threads,
        }
        results: dict[str, dict[str, Any]] = {}
        for row in rows:
            results.setdefault(row.name, {})[row.suite] = row.json()
        arguments.output.write_text(json.dumps(facts | {"aggregators": results}, indent=2) + "\n")


def _flags(arguments: argparse.Namespace) -> list[str]:
    flags = ["--suites", *arguments.suites, "--repeats", str(arguments.repeats), "--updates", str(arguments.updates)]
    return [*flags, *(["--processor-time"] if arguments.processor_time else [])]


if __name__ == "__main__":
    main()
