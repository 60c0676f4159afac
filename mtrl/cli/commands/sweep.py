"""`mtrl sweep`: the runs that a YAML file describes, on this machine or a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join
from typing import Literal

from pydantic import PositiveInt

from mtrl.api.plugins import import_plugins
from mtrl.cli.flags import FlagParser
from mtrl.config.validation import validated
from mtrl.errors import BadInput
from mtrl.launch.sweep_file import Sweep


@dataclass(frozen=True, kw_only=True)
class SweepFlags:
    """Flags of a sweep."""

    dry_run: bool = False  # print the commands and exit
    engine: Literal["local", "ray", "slurm"] = "local"  # processes here, Ray tasks, or a Slurm array job
    jobs: PositiveInt | None = None  # runs at a time; None: as many as cores and memory allow
    ray_address: str | None = None  # of a Ray cluster, such as auto or HOST:6379; None: Ray is started here
    retry_failed: bool = False  # also run again what has failed before
    search: Literal["optuna"] | None = None  # search the ranges of the file instead of a grid
    trials: PositiveInt | None = None  # of the search in all, those of earlier calls counted


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code. Raises MtrlError."""
    parser = FlagParser(
        "sweep", "Train every combination of some flags with every seed. Repeated, it goes on where it stopped."
    )
    parser.add_argument("file", metavar="FILE.yaml", help="flags, grid and seeds: docs/sweeps.md")
    parser.add_settings(SweepFlags, SweepFlags())
    parser.add_plugin_flag()
    given = parser.parse(arguments)
    path, modules = Path(given.pop("file")), given.pop("plugin", [])
    flags = validated(SweepFlags, given, "")
    if flags.ray_address is not None and flags.engine != "ray":
        raise BadInput("--ray-address needs --engine ray")
    if (flags.search is None) != (flags.trials is None):
        raise BadInput("--search and --trials need each other")
    sweep = Sweep(path, import_plugins(modules))
    if flags.search is None and sweep.settings.search:
        raise BadInput(f"{path}: 'search' has ranges, which --search optuna --trials N searches")
    if flags.dry_run:
        if flags.search is not None:
            raise BadInput("--dry-run lists the commands of a grid; those of a search follow from its results")
        for plan in sweep.runs():
            print("mtrl", join(plan.arguments))
        return 0

    from mtrl.launch.sweep import Options, run_sweep

    options = Options(flags.engine, flags.jobs, flags.ray_address, flags.retry_failed)
    if flags.search is None:
        return run_sweep(sweep, options)

    from mtrl.launch.search import run_search

    return run_search(sweep, options, flags.trials or 0)
