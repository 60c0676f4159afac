"""Runs of `mtrl train` that a benchmark needs: trained, or gone on with, and what a finished one reached."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrl.runs.run_directory import RunDirectory


@dataclass(frozen=True)
class Outcome:
    """What one finished run left behind."""

    env_steps: int
    env_steps_per_second: float  # of the process that ended the run
    success_rates: dict[str, float]  # by task, in the last evaluation
    mean_returns: dict[str, float]  # the same
    conflict_rate: float | None  # None: not measured


def train(suite: str, seed: int, run_dir: Path, flags: Sequence[str]) -> None:
    """A new run, or the rest of one. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", "mtrl", "train"]
    if any((run_dir / "checkpoints").glob("step_*")):  # a run that was killed before its first one begins anew
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
        success_rates={row.task: row.success_rate for row in final},
        mean_returns={row.task: row.mean_return for row in final},
        conflict_rate=statistics.fmean(conflicts) if conflicts else None,
    )
