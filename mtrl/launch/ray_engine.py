"""Runs as tasks of Ray (Moritz et al., 2018, arXiv:1712.05889), one for each, on this machine or a cluster.

Ray chooses the machine by the cores, GPUs and memory that a run needs. Only exit codes and paths travel through Ray;
what a run knows is in its run directory.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtrl.checkpoints.files import printable
from mtrl.errors import BadInput
from mtrl.launch.node import train_here
from mtrl.launch.processes import LOST, ChildRun
from mtrl.loggers.console import say

_CLOSE_SECONDS = 120.0
"""For a run to save its last checkpoint."""


class RayEngine:
    """Connects to a cluster, or starts Ray on this machine. Raises BadInput."""

    elsewhere = True

    def __init__(self, jobs: int | None, address: str | None = None):
        """jobs: runs at a time; None: as many as the cluster has room for."""
        try:
            import ray
        except ModuleNotFoundError:
            raise BadInput("the engine ray needs the package ray; pip install 'mtrl-suite[ray]'") from None
        self._ray: Any = ray
        self.slots = sys.maxsize if jobs is None else jobs
        self._tasks: dict[str, Any] = {}
        self._log_bytes: dict[str, int] = {}
        self._own = not ray.is_initialized()
        if self._own:
            options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
            if address is None and "RAY_ADDRESS" not in os.environ:
                options["include_dashboard"] = False
            try:
                ray.init(address, **options)
            except Exception as error:  # of many types, Exception itself among them
                where = f"cannot connect to Ray at {printable(address)}" if address else "cannot start Ray"
                raise BadInput(f"{where}: {str(error).strip().partition(chr(10))[0]}") from error
        self._task = ray.remote(max_retries=0)(train_here)
        self._told = False

    def start(self, runs: Sequence[ChildRun]) -> None:
        self._say_what_has_no_room(runs)
        for run in runs:
            need = run.needs
            self._log_bytes[run.name] = _size(run.log)
            options = {"num_cpus": need.cpus, "num_gpus": need.gpus, "memory": need.num_bytes, "name": run.name}
            self._tasks[run.name] = self._task.options(**options).remote(run, str(Path.cwd()))

    def poll(self, run: ChildRun) -> None:
        task = self._tasks[run.name]
        # Its first line is written when the task begins; until then it waits for room.
        run.started = run.started or _size(run.log) > self._log_bytes[run.name]
        if not self._ray.wait([task], timeout=0)[0]:
            return
        run.started = True
        run.exit_code = self._result(task)

    def stop(self, run: ChildRun, number: int) -> None:
        if run.name in self._tasks:
            self._ray.cancel(self._tasks[run.name])  # SIGINT, which `train_here` passes on

    def close(self) -> None:
        unfinished = self._ray.wait([*self._tasks.values()], num_returns=len(self._tasks), timeout=0)[1]
        for task in unfinished:
            self._ray.cancel(task)
        if unfinished:
            self._ray.wait(unfinished, num_returns=len(unfinished), timeout=_CLOSE_SECONDS)
        if self._own:
            self._ray.shutdown()

    def _result(self, task: Any) -> int:
        errors = self._ray.exceptions
        try:
            return int(self._ray.get(task))
        except errors.TaskCancelledError:
            return 128 + signal.SIGINT
        except errors.RayTaskError as error:  # of `train_here`: the log cannot be written
            cause = error.cause
            say(f"{type(cause).__name__}: {cause}")
            return int(getattr(cause, "exit_code", 70))
        except errors.RayError:  # the machine, or Ray's process on it, is gone
            return LOST

    def _say_what_has_no_room(self, runs: Sequence[ChildRun]) -> None:
        """Once, and it is no error: a cluster may grow."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        for run in runs if not self._told else ():
            wanted = {"CPU": run.needs.cpus, "GPU": run.needs.gpus, "memory": float(run.needs.num_bytes)}
            if not any(all(node.get(kind, 0) >= value for kind, value in wanted.items()) for node in nodes):
                self._told = True
                wish = f"{run.needs.cpus:g} cores, {run.needs.gpus:g} GPUs and {run.needs.num_bytes:,} bytes of memory"
                say(f"{run.name} waits for a machine with {wish}; 'resources' in the file may ask for less")
                return


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
