"""All loss weightings and gradient methods on one suite: what they cost and what they reach.

python -m benchmarks.balancing --runs FOLDER --suite mt10 --seeds 1 2 [--aggregators mean famo] [flags of mtrl train]

Trains one run per method and seed, `FOLDER/METHOD-seed-N`, one after the other. Given again, the command skips the runs
that are finished and resumes those that are not. It writes `FOLDER/table.md` after every run. A method that reads
positive losses is taken for the parameter groups that have them, with `mean` for the others.

Columns, each the median over seeds with the lowest and highest in brackets: training time per env step relative to
`mean` of the same seed (stepping included), success rate of the final evaluation (mean of the tasks, and the worst),
and the share of pairs of tasks whose gradients conflict, over all parameter groups and measurements (with
`--conflict-interval`). Times are comparable only if nothing else ran on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import agents
import envs
from benchmarks.repeats import Repeats
from mtrl.agent import agent_types
from mtrl.aggregation import aggregators
from mtrl.errors import BadInput
from mtrl.runs.run_directory import RunDirectory


@dataclass(frozen=True)
class Outcome:
    """What one finished run left behind."""

    env_steps: int
    env_steps_per_second: float  # of the process that ended the run
    success_rates: list[float]  # per task, in the last evaluation
    conflict_rate: float | None  # None: not measured


def aggregator_flags(name: str, agent: str) -> list[str]:
    """Flags of `mtrl train` for one aggregator. Raises BadInput where no parameter group of the agent can have it."""
    groups = agent_types.get(agent).group_gauges
    if not aggregators.get(name).needs_gauge:
        return ["--aggregator", name]
    if not any(groups.values()):
        raise BadInput(f"aggregator {name!r} needs positive losses, and {agent!r} has none")
    without = [group for group, has_gauge in groups.items() if not has_gauge]
    return ["--aggregator", name, *(flag for group in without for flag in (f"--aggregator.{group}", "mean"))]


def train(suite: str, seed: int, run_dir: Path, flags: Sequence[str]) -> None:
    """A new run, or the rest of one. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", "mtrl", "train"]
    if run_dir.exists():
        subprocess.run([*command, "--resume", str(run_dir)], check=True)
    else:
        subprocess.run([*command, "--suite", suite, "--seed", str(seed), "--run-dir", str(run_dir), *flags], check=True)


def outcome(run_dir: Path) -> Outcome | None:
    """The result of a finished run, None of any other."""
    if not run_dir.exists():
        return None
    run = RunDirectory.open(run_dir)
    rows = run.metrics.rows()
    evaluated = [row for row in run.evaluations.rows() if row.kind == "final"]
    # A run that was extended has several.
    final = [row for row in evaluated if row.env_steps == evaluated[-1].env_steps]
    rates = [row["time/env_steps_per_second"] for row in rows if "time/env_steps_per_second" in row]
    if run.meta()["status"] != "done" or not final or not rates:
        return None
    conflicts = [value for row in rows for name, value in row.items() if name.endswith("/conflict_rate")]
    return Outcome(
        env_steps=final[0].env_steps,
        env_steps_per_second=rates[-1],
        success_rates=[row.success_rate for row in final],
        conflict_rate=statistics.fmean(conflicts) if conflicts else None,
    )


def table(runs: Path, names: Sequence[str], seeds: Sequence[int]) -> str:
    """Markdown: a row per method that has finished runs."""
    found = {(name, seed): outcome(runs / f"{name}-seed-{seed}") for name in names for seed in seeds}
    lines = [
        "| aggregator | seeds | env steps | time, mean = 1 | success rate | worst task | conflicting pairs |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        own = {seed: result for seed in seeds if (result := found[name, seed]) is not None}
        if not own:
            continue
        times = [
            mean.env_steps_per_second / result.env_steps_per_second
            for seed, result in own.items()
            if (mean := found.get(("mean", seed))) is not None
        ]

        def shown(value: Callable[[Outcome], float], own: dict[int, Outcome] = own) -> str:
            return Repeats(tuple(value(result) for result in own.values())).shown(2)

        conflicts = [result.conflict_rate for result in own.values() if result.conflict_rate is not None]
        cells = [
            name,
            str(len(own)),
            f"{min(result.env_steps for result in own.values()):,}",
            Repeats(tuple(times)).shown(2) if times else "",
            shown(lambda result: statistics.fmean(result.success_rates)),
            shown(lambda result: min(result.success_rates)),
            Repeats(tuple(conflicts)).shown(2) if conflicts else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Trains what is missing and prints the table; 0, 1 where a run failed, or 2 for bad input."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs and the table")
    parser.add_argument("--suite", default="mt10")
    parser.add_argument("--agent", default="sac")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--aggregators", nargs="+", metavar="NAME", help="default: all, `mean` first")
    arguments, flags = parser.parse_known_args()
    agents.register()
    envs.register()
    names = arguments.aggregators or aggregators.names()
    failed = []
    try:
        chosen = {name: ["--agent", arguments.agent, *aggregator_flags(name, arguments.agent)] for name in names}
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for seed in arguments.seeds:
        for name, own_flags in chosen.items():
            run_dir = arguments.runs / f"{name}-seed-{seed}"
            if outcome(run_dir) is not None:
                continue
            try:
                train(arguments.suite, seed, run_dir, [*own_flags, *flags])
            except subprocess.CalledProcessError as error:
                failed.append(f"{run_dir}: exit code {error.returncode}")
            (arguments.runs / "table.md").write_text(table(arguments.runs, names, arguments.seeds))
    print(table(arguments.runs, names, arguments.seeds), end="")
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
