"""Runs as an array job of Slurm, by submitit.

A job that Slurm preempts, or whose time is over, saves a checkpoint and is queued again (`--requeue`). The folder
`slurm` of the sweep has submitit's scripts, logs and pickles, which only the jobs read.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtrl.errors import BadInput
from mtrl.launch.node import save_and_end, train_here
from mtrl.launch.processes import LOST, ChildRun
from mtrl.launch.resources import GIBIBYTE, most
from mtrl.loggers.console import say


class Job:
    """What a job does; submitit calls `checkpoint` before the machine is taken away."""

    def __init__(self, folder: str):
        self._folder = folder

    def __call__(self, run: ChildRun) -> int:
        return train_here(run, self._folder)

    def checkpoint(self, run: ChildRun) -> Any:
        """Returns what the job does when it is started again."""
        from submitit.helpers import DelayedSubmission

        save_and_end(run)
        return DelayedSubmission(self, dataclasses.replace(run, process=None, started=False))


class SlurmEngine:
    """Submits to Slurm. Raises BadInput."""

    elsewhere = True

    def __init__(self, jobs: int | None, folder: Path, parameters: Mapping[str, Any], cluster: str = "slurm"):
        """jobs: runs at a time; None: Slurm's limit.

        parameters: of submitit's `update_parameters`, such as slurm_partition and timeout_min.
        cluster: `local` has submitit start processes here, for tests.
        """
        try:
            import submitit
        except ModuleNotFoundError:
            raise BadInput("the engine slurm needs the package submitit; pip install 'mtrl-suite[slurm]'") from None
        self.slots = sys.maxsize  # an array job has a limit of its own
        self._jobs: dict[str, Any] = {}
        own = {"name": "mtrl-sweep", "timeout_min": 24 * 60}
        if jobs is not None:
            own["slurm_array_parallelism"] = jobs
        with _refusals_named():
            self._executor = submitit.AutoExecutor(folder, cluster=cluster)
            self._executor.update_parameters(**own)
        self._parameters = dict(parameters)

    def start(self, runs: Sequence[ChildRun]) -> None:
        need = most([run.needs for run in runs])  # an array job has one size
        own = {
            "cpus_per_task": max(1, math.ceil(need.cpus)),
            "mem_gb": math.ceil(need.num_bytes / GIBIBYTE),
            "gpus_per_node": math.ceil(need.gpus),
        }
        with _refusals_named():
            self._executor.update_parameters(**own | self._parameters)
            submitted = self._executor.map_array(Job(str(Path.cwd())), runs)
        self._jobs |= {run.name: job for run, job in zip(runs, submitted, strict=True)}

    def poll(self, run: ChildRun) -> None:
        job = self._jobs[run.name]
        run.started = run.started or job.state == "RUNNING"
        if not job.done():
            return
        run.started = True
        try:
            run.exit_code = int(job.result())
        except Exception as error:  # submitit's, of a job without a result, or what the job has raised
            say(f"{run.name}: {str(error).strip().partition(chr(10))[0]}")
            run.exit_code = LOST

    def stop(self, run: ChildRun, number: int) -> None:
        if run.name in self._jobs:
            self._jobs[run.name].cancel()

    def close(self) -> None:
        for job in self._jobs.values():
            if not job.done():
                job.cancel()


@contextmanager
def _refusals_named() -> Iterator[None]:
    """Raises BadInput for what submitit or sbatch refuses."""
    try:
        yield
    except Exception as error:  # of many types
        raise BadInput(f"slurm: {str(error).strip().partition(chr(10))[0]}") from error
