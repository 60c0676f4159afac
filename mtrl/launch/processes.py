"""Runs of `mtrl train` as child processes, so many at a time.

Each writes what it prints to a log file. A signal to this process is passed on, so that every run saves a checkpoint.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mtrl.checkpoints.files import storage_faults
from mtrl.training.interruption import Interruption

State = Literal["waiting", "running", "done", "failed", "stopped"]

POLL_SECONDS = 0.2


@dataclass
class ChildRun:
    """One run: its command (what follows `mtrl`), where it is, and how it stands."""

    name: str
    run_dir: Path
    arguments: Sequence[str]
    log: Path  # gets stdout and stderr
    exit_code: int | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    stopped: bool = False  # told to stop, or not started for that reason

    @property
    def state(self) -> State:
        if self.exit_code is None:
            return "stopped" if self.stopped and self.process is None else "running" if self.process else "waiting"
        return "done" if self.exit_code == 0 else "stopped" if self.stopped else "failed"

    def start(self, environment: Mapping[str, str]) -> None:
        """Raises StorageFailure if the log file cannot be written."""
        with storage_faults(self.log):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "ab") as output:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "mtrl", *self.arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                )

    def last_words(self) -> str:
        """The last line of the log, which says why a run failed."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1].removeprefix("error: ") if lines else ""


def run_all(
    runs: Sequence[ChildRun],
    jobs: int,
    environment: Mapping[str, str],
    on_turn: Callable[[], None] = lambda: None,
) -> int:
    """Runs all of them, at most `jobs` at a time; a failed one stops no other.

    `on_turn` is called several times a second. Returns 0, the exit code of the first run that failed, or that of the
    signal that stopped them. Raises StorageFailure.
    """
    with Interruption() as interruption:
        try:
            while any(run.state in ("waiting", "running") for run in runs):
                if interruption:
                    for run in runs:
                        _stop(run, interruption.exit_code - 128)
                active = sum(run.state == "running" for run in runs)
                waiting = [run for run in runs if run.state == "waiting"]
                for run in waiting[: max(0, jobs - active)]:
                    run.start(environment)
                for run in runs:
                    if run.process is not None and run.exit_code is None:
                        code = run.process.poll()
                        # Of a process that a signal ended, as a shell has it.
                        run.exit_code = code if code is None or code >= 0 else 128 - code
                on_turn()
                time.sleep(POLL_SECONDS)
        finally:
            for run in runs:  # only after an exception is one of them still running
                if run.process is not None and run.process.poll() is None:
                    run.process.terminate()
                    run.process.wait()
        if interruption:
            return interruption.exit_code
        return next((run.exit_code for run in runs if run.exit_code), 0)


def _stop(run: ChildRun, number: int) -> None:
    """Once; a run that is not started yet stays so."""
    if not run.stopped and run.exit_code is None:
        run.stopped = True
        if run.process is not None:
            run.process.send_signal(number)
