"""Trainings of a suite at its preset with `mtrl train`, for several seeds, one after the other.

python -m benchmarks.learning --suite mt3 --seeds 1 2 3 --output benchmarks/results/mt3 [flags of mtrl train]

Writes, as each seed ends, its final evaluation by the suite's protocol, the curves of the periodic evaluations and of
training, and a summary with the command, commit, versions and machine. `seconds` is the time of the whole command:
start, training, evaluations, table. Runs live in a temporary folder, or with `--runs FOLDER` there: what was cut off
goes on from its last checkpoint when the command is given again, and its seconds are then not known.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.learning.results import final_rows
from mtrl.loggers.metric_rows import scalars
from mtrl.runs.logs import EvaluationRow
from mtrl.runs.metadata import program_facts
from mtrl.runs.run_directory import RunDirectory


def train(suite: str, seed: int, run_dir: Path, flags: list[str]) -> float | None:
    """Runs the preset and returns the seconds that the whole command took; None for a run that was there before."""
    command = [sys.executable, "-m", "mtrl", "train"]
    if run_dir.exists():
        subprocess.run([*command, "--resume", str(run_dir)], check=True)
        return None
    started = time.monotonic()
    subprocess.run([*command, "--suite", suite, "--seed", str(seed), "--run-dir", str(run_dir), *flags], check=True)
    return time.monotonic() - started


def curves(run: RunDirectory) -> list[dict[str, Any]]:
    """The rows of metrics without matrices."""
    return [{"env_steps": row["env_steps"], **scalars(row)} for row in run.metrics.rows()]


def summarise(rows: list[EvaluationRow], seconds: float | None) -> dict[str, Any]:
    """The final evaluation of one seed."""
    final = final_rows(rows)
    return {
        "success_rate": {row.task: row.success_rate for row in final},
        "mean_return": {row.task: row.mean_return for row in final},
        "mean_success_rate": statistics.fmean(row.success_rate for row in final),
        "episodes_per_task": final[0].episodes,
        "env_steps": final[0].env_steps,
        "seconds": None if seconds is None else round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="mt3")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, required=True, help="folder, e.g. benchmarks/results/mt3")
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs; default: a temporary one")
    arguments, flags = parser.parse_known_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.learning", *sys.argv[1:]]),
        "program": program_facts(["metaworld", "mujoco", "ale-py"]),
        "seeds": {},
    }
    for seed in arguments.seeds:
        with contextlib.ExitStack() as stack:
            runs = arguments.runs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            run_dir = runs / f"seed-{seed}"
            seconds = train(arguments.suite, seed, run_dir, flags)
            run = RunDirectory.open(run_dir)
            rows = run.evaluations.rows()
            (arguments.output / f"seed-{seed}-config.yaml").write_text(run.config())
            with open(arguments.output / f"seed-{seed}-eval.csv", "w", newline="") as file:
                csv.writer(file).writerows([EvaluationRow._fields, *rows])
            with open(arguments.output / f"seed-{seed}-curves.jsonl", "w") as file:
                file.writelines(json.dumps(row) + "\n" for row in curves(run))
            summary["seeds"][str(seed)] = summarise(rows, seconds)
        means = [own["mean_success_rate"] for own in summary["seeds"].values()]
        summary["median_of_mean_success_rates"] = statistics.median(means)
        (arguments.output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        print(f"seed {seed}: {summary['seeds'][str(seed)]}", flush=True)
    print(f"median over seeds {arguments.seeds}: {summary['median_of_mean_success_rates']:.3f}")


if __name__ == "__main__":
    main()
