"""Experts of single tasks, distilled into one network, against training on all tasks at once, at equal env steps.

python -m benchmarks.experts --runs FOLDER --suite mt10 --seeds 1 2

Per seed: SAC with the preset `fast` on every task alone (`FOLDER/TASK-seed-N`), a student of these experts
(`FOLDER/student-seed-N`), and SAC with the same preset on all tasks (`FOLDER/multi-task-seed-N`) for as many env steps
as the experts and the student together. Four slots per expert give each task as many samples per env step as training
on ten tasks gives it. The student has the network of the preset and acts in a tenth of the env steps.

Given again, the command skips the runs that are finished and resumes those that are not. After every run it writes
`FOLDER/table.md`: success rates on 50 goals per task, the median over seeds with the lowest and highest in brackets.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import agents
import envs
from benchmarks.repeats import Repeats
from benchmarks.trained_runs import outcome, train
from mtrl.env.suite import find_suite

STUDENT_SHARE = 0.1  # of the env steps


def expert_run(runs: Path, task: str, seed: int) -> Path:
    return runs / f"{task}-seed-{seed}"


def evaluated_once(env_steps: int) -> list[str]:
    """Flags of a run that is evaluated at its end only."""
    return [f"--total-env-steps={env_steps}", "--eval-interval=0", "--final-eval-episodes-per-task=50"]


def sac_flags(env_steps: int) -> list[str]:
    return ["--agent=sac", "--preset=fast", f"--agent.annealing-steps={env_steps}", *evaluated_once(env_steps)]


def student_flags(runs: Path, tasks: Sequence[str], seed: int, env_steps: int) -> list[str]:
    """Teachers act at first, the student in the second half; four updates of the preset's batch per vector step."""
    settings = {
        "agent.batch-size": 32 * len(tasks),
        "agent.gradient-steps": 4,
        "agent.learning-rate": 1e-3,
        "agent.annealing-steps": env_steps,
        "agent.shift-steps": env_steps // 2,
        "architecture.width": 256,
        "architecture.depth": 1,
    }
    return [
        *("--agent", "distill", "--architecture", "residual", *evaluated_once(env_steps)),
        *(f"--{name}={value}" for name, value in settings.items()),
        *("--agent.teachers", *(str(expert_run(runs, task, seed)) for task in tasks)),
    ]


def success_rates(runs: Path, tasks: Sequence[str], contestant: str, seed: int) -> dict[str, float]:
    """Of the last evaluation, by task, as far as runs are finished."""
    own = [expert_run(runs, task, seed) for task in tasks]
    outcomes = map(outcome, own if contestant == "expert" else [runs / f"{contestant}-seed-{seed}"])
    return {task: rate for result in outcomes if result for task, rate in result.success_rates.items()}


def table(runs: Path, tasks: Sequence[str], seeds: Sequence[int]) -> str:
    """Markdown: a row per task, and the mean of those seeds whose runs are all finished."""
    contestants = ("expert", "student", "multi-task")
    columns: list[list[str]] = []
    for name in contestants:
        by_seed = [success_rates(runs, tasks, name, seed) for seed in seeds]
        values = [[rates[task] for rates in by_seed if task in rates] for task in tasks]
        values.append([statistics.fmean(rates.values()) for rates in by_seed if len(rates) == len(tasks)])
        columns.append([Repeats(tuple(own)).shown(2) if own else "" for own in values])
    rows = [["task", *contestants], ["---", *("---:" for _ in contestants)]]
    rows += [[name, *cells] for name, *cells in zip([*tasks, "mean"], *columns, strict=True)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> int:
    """Trains what is missing and prints the table. Raises CalledProcessError where a run fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs and the table")
    parser.add_argument("--suite", default="mt10", help="of Meta-World")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--total-env-steps",
        type=int,
        default=1_000_000,
        help="of the experts and the student, and of the multi-task run",
    )
    parser.add_argument("--without-multi-task", action="store_true", help="train only the experts and the student")
    arguments, flags = parser.parse_known_args()
    agents.register()
    envs.register()
    tasks = find_suite(arguments.suite).outline(arguments.suite).task_names
    student_steps = int(arguments.total_env_steps * STUDENT_SHARE)
    expert_steps = (arguments.total_env_steps - student_steps) // len(tasks)
    for seed in arguments.seeds:
        wanted = [
            (f"metaworld:{task}", expert_run(arguments.runs, task, seed), ["--num-envs=4", *sac_flags(expert_steps)])
            for task in tasks
        ]
        student = student_flags(arguments.runs, tasks, seed, student_steps)
        wanted.append((arguments.suite, arguments.runs / f"student-seed-{seed}", student))
        if not arguments.without_multi_task:
            multi_task = sac_flags(arguments.total_env_steps)
            wanted.append((arguments.suite, arguments.runs / f"multi-task-seed-{seed}", multi_task))
        for suite, run_dir, own_flags in wanted:
            if outcome(run_dir) is None:
                train(suite, seed, run_dir, [*own_flags, *flags])
                (arguments.runs / "table.md").write_text(table(arguments.runs, tasks, arguments.seeds))
    print(table(arguments.runs, tasks, arguments.seeds), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
