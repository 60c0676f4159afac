"""One configuration with several seeds: `mtrl train --seeds 1 2 3 --jobs 2`.

The folder gets `seeds.yaml`, the configuration, and for every seed N a run directory `seed-N` and what the run prints,
`seed-N.log`; at the end `report.html`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import join
from typing import Any

from mtrl import report
from mtrl.checkpoints.files import printable, replace_file, storage_faults
from mtrl.checkpoints.store import CheckpointStore
from mtrl.config.schema import RunConfig, RunSettings, changed, dump_yaml
from mtrl.config.yaml_io import read_text
from mtrl.errors import BadInput, MtrlError
from mtrl.launch.processes import ChildRun, LocalEngine, run_all
from mtrl.launch.run_status import read_status
from mtrl.launch.sweep_file import difference
from mtrl.launch.table import RunsTable
from mtrl.loggers.console import say
from mtrl.optim.cpu import available_cores
from mtrl.runs.logs import EvaluationLog
from mtrl.runs.run_directory import CHECKPOINTS, CONFIG, EVALUATIONS

SEEDS = "seeds.yaml"
REPORT = "report.html"
FREE_SETTINGS = ("seed", "max_hours", "num_workers", "torch_threads", "worker_timeout", "device", "check_plugins")
"""Settings in which seeds of one folder may differ."""


def train_seeds(config: RunConfig, folder: Path, seeds: Sequence[int], jobs: int, *, overwrite: bool = False) -> int:
    """New runs of `config` with each of the seeds; returns the exit code. Raises BadInput, StorageFailure.

    overwrite: runs of these seeds that are there are replaced.
    """
    _check(config, seeds, jobs)
    shown = printable(str(folder), 160)
    if (folder / CONFIG).exists():
        raise BadInput(f"{shown} is a run directory; several seeds need a folder of their own")
    there = [seed for seed in seeds if (folder / f"seed-{seed}").exists()]
    if there and not overwrite:
        raise BadInput(f"{shown} has seed-{there[0]}; use --resume {shown} to continue it or --overwrite")
    replaced = {f"seed-{seed}" for seed in seeds}
    others = any(path.is_dir() and path.name not in replaced for path in folder.glob("seed-*"))
    text = read_text(folder / SEEDS) if others and (folder / SEEDS).exists() else None
    if text is not None and (found := difference(config, text, FREE_SETTINGS)) is not None:
        raise BadInput(f"{shown} has seeds of other settings, where {found}; choose another --run-dir")
    with storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / SEEDS, dump_yaml(config).encode())
    commands = {seed: _new(folder, seed) for seed in seeds}
    return _run(config, folder, commands, dict.fromkeys(seeds, config.settings.total_env_steps), jobs)


def resume_seeds(config: RunConfig, folder: Path, seeds: Sequence[int], jobs: int, changes: Mapping[str, Any]) -> int:
    """Goes on with the runs in a folder from their last checkpoints; returns the exit code.

    Runs that have none begin anew, and those that have been evaluated at their end are left alone. changes: settings
    that a resume may change. Raises BadInput, StorageFailure.
    """
    _check(config, seeds, jobs)
    config = changed(config, changes)
    flags = []
    for name, value in changes.items():
        flags += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    commands: dict[int, Sequence[str]] = {}
    totals: dict[int, int] = {}
    for seed in seeds:
        run_dir = folder / f"seed-{seed}"
        begun = bool(CheckpointStore(run_dir / CHECKPOINTS).steps())
        # A run that was extended has an end of its own.
        own = read_status(run_dir).total_env_steps if begun and "total_env_steps" not in changes else None
        totals[seed] = own or config.settings.total_env_steps
        if _is_evaluated(run_dir, totals[seed]):
            say(f"seed-{seed} is complete")
        elif begun:
            commands[seed] = ["train", "--resume", str(run_dir), *flags]
        else:
            commands[seed] = [*_new(folder, seed), *flags]
    return _run(config, folder, commands, totals, jobs, flags)


def _new(folder: Path, seed: int) -> list[str]:
    """The command of a run that begins. What has no checkpoint, or was named with --overwrite, is replaced."""
    run_dir = str(folder / f"seed-{seed}")
    return ["train", "--config", str(folder / SEEDS), f"--seed={seed}", "--run-dir", run_dir, "--overwrite"]


def _check(config: RunConfig, seeds: Sequence[int], jobs: int) -> None:
    if len(set(seeds)) < len(seeds):
        raise BadInput(f"--seeds: {' '.join(map(str, seeds))} is not allowed; a seed stands there twice")
    if jobs < 1:
        raise BadInput(f"--jobs: {jobs} is not allowed; must be at least 1")
    for seed in seeds:
        changed(config, {"seed": seed})


def _is_evaluated(run_dir: Path, total_env_steps: int) -> bool:
    """Whether a run has its final evaluation."""
    try:
        rows = EvaluationLog(run_dir / EVALUATIONS).rows()
    except OSError:
        return False
    return any(row.kind == "final" and row.env_steps >= total_env_steps for row in rows)


def _run(
    config: RunConfig,
    folder: Path,
    commands: Mapping[int, Sequence[str]],
    totals: Mapping[int, int],
    jobs: int,
    changes: Sequence[str] = (),
) -> int:
    """Runs the commands by seed, shows how they stand, and writes the report.

    totals: env steps by seed. changes: flags that a resume was given.
    """
    share, environment = share_of_cores(config.settings, cores_of_each(min(jobs, len(commands))))
    plugins = [f"--plugin={module}" for module in config.plugins]
    runs = [
        ChildRun(
            f"seed-{seed}",
            folder / f"seed-{seed}",
            [*command, *plugins, *share],
            folder / f"seed-{seed}.log",
            totals[seed],
            environment=environment,
        )
        for seed, command in commands.items()
    ]
    with RunsTable(runs) as table:
        code = run_all(runs, LocalEngine(jobs), table.update)
    say_failures(runs)
    unfinished = [run.name.removeprefix("seed-") for run in runs if run.state != "done"]
    if unfinished:
        side_by_side = [f"--jobs={jobs}"] if jobs > 1 else []
        command = ["mtrl", "train", "--resume", str(folder), "--seeds", *unfinished, *changes]
        say(f"go on: {join([*command, *side_by_side, *plugins])}")
    if any(run.state == "done" for run in runs) or not runs:
        report_on(folder)
    return code


def cores_of_each(side_by_side: int) -> int | None:
    """Cores of this machine for each of the runs that share it; None for one that is alone."""
    return max(1, available_cores() // side_by_side) if side_by_side > 1 else None


def share_of_cores(settings: RunSettings, cores: int | None) -> tuple[list[str], dict[str, str]]:
    """Flags and environment variables of a run that is to use so many cores, where its settings leave that open."""
    if cores is None:
        return [], {}
    flags = [f"--num-workers={cores}"] if settings.num_workers is None else []
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cores))}
    return flags, threads if settings.torch_threads is None else {}


def say_failures(runs: Sequence[ChildRun]) -> None:
    for run in runs:
        if run.state == "failed":
            say(f"{run.name} failed (exit code {run.exit_code}): {run.last_words()}; all it printed: {run.log}")


def report_on(folder: Path) -> None:
    """Writes the report of the runs in a folder. Without evaluations, or without the extra, it says so."""
    try:
        (written,) = report.write_report([str(folder)], folder / REPORT)
        say(f"report: {written}")
    except MtrlError as error:  # the runs are what counts
        say(f"no report: {error}")
