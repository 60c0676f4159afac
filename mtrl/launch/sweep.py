"""A sweep: its runs on an engine until all have ended, and the report.

All state is in the run directories. A sweep that is repeated skips the runs that are done, continues the others from
their last checkpoints, and says which have failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import join
from typing import Literal, NamedTuple

from mtrl.checkpoints.files import printable
from mtrl.config.schema import RunConfig, changed
from mtrl.errors import BadInput
from mtrl.launch.processes import ChildRun, Engine, LocalEngine, Needs, run_all
from mtrl.launch.resources import needs, room
from mtrl.launch.run_status import read_status
from mtrl.launch.seeds import cores_of_each, report_on, say_failures, share_of_cores
from mtrl.launch.sweep_file import PlannedRun, Sweep, difference
from mtrl.launch.table import RunsTable
from mtrl.loggers.console import say
from mtrl.runs.run_directory import CONFIG, RunDirectory

RESUMED_SETTINGS = ("max_hours", "num_workers", "worker_timeout", "device")
"""Settings that a run that is resumed takes from what the file says now."""
FREE_SETTINGS = (*RESUMED_SETTINGS, "total_env_steps", "check_plugins")
"""Settings in which a run may differ from what the file says now."""


@dataclass(frozen=True)
class Options:
    """How a sweep takes place."""

    engine: Literal["local", "ray", "slurm"] = "local"
    jobs: int | None = None  # runs at a time; None: as many as there is room for
    ray_address: str | None = None  # of a cluster; None: Ray is started on this machine
    retry_failed: bool = False  # also the runs that have failed before


class Failure(NamedTuple):
    """A run that has failed before."""

    run: ChildRun
    exit_code: int


def run_sweep(sweep: Sweep, options: Options) -> int:
    """Runs what is not done yet; returns the exit code. Raises MtrlError."""
    planned = sweep.runs()
    standing = [as_it_stands(plan, retry_failed=options.retry_failed) for plan in planned]
    failures = [found for found in standing if isinstance(found, Failure)]
    runs = [found for found in standing if isinstance(found, ChildRun)]
    done = len(planned) - len(runs) - len(failures)
    if done:
        say(f"{done} of {len(planned)} runs {'are' if done > 1 else 'is'} done already")
    code = next((failure.exit_code for failure in failures), 0)
    if runs:
        configs = [plan.config for plan, found in zip(planned, standing, strict=True) if isinstance(found, ChildRun)]
        placement = Placement(sweep, options, configs, len(runs))
        for run, config in zip(runs, configs, strict=True):
            placement.fit(run, config)
        with RunsTable(runs) as table:
            code = run_all(runs, placement.engine, table.update) or code
    say_failures(runs)
    for run, exit_code in failures:
        say(f"{run.name} has failed before (exit code {exit_code}): {run.last_words()}; --retry-failed tries it again")
    if any(run.state not in ("done", "failed") for run in runs):
        say(f"go on: {sweep_command(sweep, options)}")
    if done or any(run.state == "done" for run in runs):
        report_on(sweep.folder)
    return code


def sweep_command(sweep: Sweep, options: Options, *flags: str) -> str:
    """The command line that goes on with a sweep. flags: beside its options."""
    values = {"engine": options.engine, "jobs": options.jobs, "ray-address": options.ray_address}
    given = [f"--{name}={value}" for name, value in values.items() if value not in (None, "local")]
    given += ["--retry-failed"] if options.retry_failed else []
    plugins = [f"--plugin={module}" for module in sweep.plugins]
    return join(["mtrl", "sweep", str(sweep.path), *flags, *given, *plugins])


def as_it_stands(plan: PlannedRun, *, retry_failed: bool = False) -> ChildRun | Failure | None:
    """The run as there is something to do for it, or how it failed; None if it is done.

    Raises BadInput if there is a run of another configuration in its place.
    """
    total = plan.config.settings.total_env_steps
    plugins = [f"--plugin={module}" for module in plan.config.plugins]
    settings = plan.settings_flags(RESUMED_SETTINGS)
    run = ChildRun(
        plan.name,
        plan.run_dir,
        [*plan.arguments, "--overwrite"],  # only what has no checkpoint is replaced
        plan.run_dir.with_name(f"{plan.run_dir.name}.log"),
        total,
        ["train", "--resume", str(plan.run_dir), f"--total-env-steps={total}", *settings, *plugins],
    )
    if not (plan.run_dir / CONFIG).exists():
        return run
    shown, status = printable(str(plan.run_dir), 160), read_status(plan.run_dir)
    found = difference(plan.config, RunDirectory.open(plan.run_dir).config(), FREE_SETTINGS)
    if found is None and (status.total_env_steps or 0) > total:
        found = f"total_env_steps is {status.total_env_steps}, not {total}"
    if found is not None:
        raise BadInput(f"{shown} has a run of another configuration: {found}; choose another 'folder' or remove it")
    if status.status == "failed" and not retry_failed:
        return Failure(run, status.exit_code or 70)
    return None if status.status == "done" and status.total_env_steps == total else run


class Placement:
    """The engine of a sweep, and what each run is to use there."""

    def __init__(self, sweep: Sweep, options: Options, configs: Sequence[RunConfig], count: int):
        """configs: of the first runs. count: how many there will be at most. Raises BadInput."""
        self._resources = sweep.resources
        self._known: dict[str, Needs] = {}
        self._cores: int | None = None
        self._is_local = options.engine == "local"
        self.engine: Engine
        if options.engine == "local":
            slots = options.jobs or room([self._needs(config) for config in configs])
            self._cores = cores_of_each(min(slots, count))
            self.engine = LocalEngine(slots)
        elif options.engine == "ray":
            from mtrl.launch.ray_engine import RayEngine

            self.engine = RayEngine(options.jobs, options.ray_address)
        else:
            from mtrl.launch.slurm_engine import SlurmEngine

            self.engine = SlurmEngine(options.jobs, sweep.folder / "slurm", sweep.settings.slurm)

    def fit(self, run: ChildRun, config: RunConfig) -> ChildRun:
        """The run with flags, variables and needs. Raises BadInput for a configuration that cannot be built."""
        cores = self._cores
        if not self._is_local:
            run.needs = self._needs(config)
            cores = max(1, int(run.needs.cpus))
        flags, run.environment = share_of_cores(config.settings, cores)
        run.arguments = [*run.arguments, *flags]
        run.resume = None if run.resume is None else [*run.resume, *flags]
        return run

    def _needs(self, config: RunConfig) -> Needs:
        """Runs that differ in their seed need the same."""
        key = repr(changed(config, {"seed": 0}))
        if key not in self._known:
            self._known[key] = needs(config, self._resources)
        return self._known[key]
