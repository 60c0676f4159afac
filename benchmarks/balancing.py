"""All loss weightings and gradient methods on one suite: what they cost and what they reach.

python -m benchmarks.balancing --runs FOLDER --suite mt10 --seeds 1 2 [--aggregators mean famo] [flags of mtrl train]

Trains one run per method and seed, `FOLDER/METHOD-seed-N`, one after the other. Given again, the command skips the runs
that are finished and resumes those that are not. It writes `FOLDER/table.md` after every run. A method that reads
positive losses is taken for the parameter groups that have them, with `mean` for the others. The name of a normalizer,
such as `popart`, stands for `mean` with that normalizer.

Columns, each the median over seeds with the lowest and highest in brackets: training time per env step relative to
`mean` of the same seed (stepping included), success rate of the final evaluation (mean of the tasks, and the worst),
and the share of pairs of tasks whose gradients conflict, over all parameter groups and measurements (with
`--conflict-interval`). Times are comparable only if nothing else ran on the machine. With `--returns` there is a column
per task instead of the two of success: the mean return of the final evaluation.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import agents
import envs
from benchmarks.repeats import Repeats
from benchmarks.trained_runs import Outcome, outcome, train
from mtrl.agent import agent_types
from mtrl.aggregation import aggregators
from mtrl.errors import BadInput
from mtrl.normalization import normalizers


def method_flags(name: str, agent: str) -> list[str]:
    """Flags of `mtrl train` for one method. Raises BadInput where no parameter group of the agent can have it."""
    groups = agent_types.get(agent).group_gauges
    if name in normalizers.names():
        return ["--aggregator", "mean", "--normalizer", name]
    if not aggregators.get(name).needs_gauge:
        return ["--aggregator", name]
    if not any(groups.values()):
        raise BadInput(f"aggregator {name!r} needs positive losses, and {agent!r} has none")
    without = [group for group, has_gauge in groups.items() if not has_gauge]
    return ["--aggregator", name, *(flag for group in without for flag in (f"--aggregator.{group}", "mean"))]


def mean_return(task: str, result: Outcome) -> float:
    return result.mean_returns[task]


def table(runs: Path, names: Sequence[str], seeds: Sequence[int], returns: bool = False) -> str:
    """Markdown: a row per method that has finished runs."""
    found = {(name, seed): outcome(runs / f"{name}-seed-{seed}") for name in names for seed in seeds}
    reached: dict[str, Callable[[Outcome], float]] = {
        "success rate": lambda result: statistics.fmean(result.success_rates.values()),
        "worst task": lambda result: min(result.success_rates.values()),
    }
    if returns:
        tasks = next((list(result.mean_returns) for result in found.values() if result is not None), [])
        reached = {task: functools.partial(mean_return, task) for task in tasks}
    columns = ["aggregator", "seeds", "env steps", "time, mean = 1", *reached, "conflicting pairs"]
    lines = [f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 1)}"]
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
            *(shown(value) for value in reached.values()),
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
    parser.add_argument("--aggregators", nargs="+", metavar="NAME", help="or normalizers; default: all aggregators")
    parser.add_argument("--returns", action="store_true", help="mean returns by task in place of success rates")
    arguments, flags = parser.parse_known_args()
    agents.register()
    envs.register()
    names = arguments.aggregators or aggregators.names()
    failed = []
    try:
        chosen = {name: ["--agent", arguments.agent, *method_flags(name, arguments.agent)] for name in names}
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
            (arguments.runs / "table.md").write_text(table(arguments.runs, names, arguments.seeds, arguments.returns))
    print(table(arguments.runs, names, arguments.seeds, arguments.returns), end="")
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
