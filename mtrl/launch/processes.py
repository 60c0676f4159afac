"""Runs of `mtrl train` until all have ended: the loop, and the engine that has them as processes of this machine.

Each writes what it prints to a log file. A signal to this process is passed on, so that every run saves a checkpoint.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from mtrl.checkpoints.files import storage_faults
from mtrl.checkpoints.store import CheckpointStore
from mtrl.launch.run_status import read_status
from mtrl.optim.cpu import PARENT
from mtrl.runs.run_directory import CHECKPOINTS
from mtrl.training.interruption import Interruption

State = Literal["waiting", "running", "done", "failed", "stopped", "pruned"]

POLL_SECONDS = 0.2

LOST = 128 + signal.SIGKILL
"""Exit code of a run whose machine is gone."""
PREEMPTED = (LOST, 128 + signal.SIGTERM, 128 + signal.SIGUSR1)
"""Exit codes of a run that was taken off its machine, and may go on on another."""
MAX_LOSSES = 3
"""In a row without a new checkpoint, after which a run counts as failed."""


class Needs(NamedTuple):
    """What one run takes."""

    cpus: float = 1
    gpus: float = 0
    num_bytes: int = 0  # of memory


@dataclass
class ChildRun:
    """One run: its command (what follows `mtrl`), where it is, and how it stands."""

    name: str
    run_dir: Path
    arguments: Sequence[str]  # of a run that begins
    log: Path  # gets stdout and stderr
    total_env_steps: int
    resume: Sequence[str] | None = None  # in place of them where there is a checkpoint
    environment: Mapping[str, str] = field(default_factory=dict)  # further variables
    needs: Needs = field(default_factory=Needs)
    started: bool = False
    exit_code: int | None = None
    stopped: bool = False  # told to stop, or not started for that reason
    out_of_time: bool = False  # ended before it was done, as its hours were over
    pruned: bool = False  # told to stop by a search, which has seen enough
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    losses: tuple[int, int] = (0, 0)  # in a row without a new checkpoint, and the step of the last one

    @property
    def state(self) -> State:
        if self.exit_code == 0 and not self.out_of_time:
            return "done"
        if self.exit_code is None and self.started:
            return "running"
        if self.stopped or self.out_of_time:
            return "pruned" if self.pruned else "stopped"
        return "waiting" if self.exit_code is None else "failed"

    @property
    def checkpoint_step(self) -> int:
        """Of the last checkpoint; 0 where there is none."""
        return max(CheckpointStore(self.run_dir / CHECKPOINTS).steps(), default=0)

    def command(self) -> Sequence[str]:
        """The arguments of the run as its directory stands."""
        return self.arguments if self.resume is None or not self.checkpoint_step else self.resume

    def start(self) -> None:
        """Raises StorageFailure if the log file cannot be written."""
        command = self.command()
        with storage_faults(self.log):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "ab") as output:
                output.write(f"{socket.gethostname()}: mtrl {' '.join(command)}\n".encode(errors="replace"))
                output.flush()
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "mtrl", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, PARENT: str(os.getpid()), **self.environment},
                )
        self.started = True

    def again(self) -> bool:
        """Makes a run wait that was lost or preempted; False once that is no use."""
        count, last = self.losses
        step = self.checkpoint_step
        self.losses = (1 if step > last else count + 1, step)
        if self.losses[0] >= MAX_LOSSES:
            return False
        self.started, self.exit_code, self.process = False, None, None
        return True

    def last_words(self) -> str:
        """The last line of the log, which says why a run failed."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1].removeprefix("error: ") if lines else ""


class Engine(Protocol):
    """Where runs take place."""

    slots: int  # runs at a time
    elsewhere: bool  # whether a run that was lost or preempted goes on on another machine

    def start(self, runs: Sequence[ChildRun]) -> None:
        """Sets `started` of each, now or when it is polled. Raises MtrlError."""

    def poll(self, run: ChildRun) -> None:
        """Sets `exit_code` once the run has ended."""

    def stop(self, run: ChildRun, number: int) -> None:
        """Sends a signal to a run that was started."""

    def close(self) -> None:
        """Ends what still runs."""


class LocalEngine:
    """Processes of this machine, so many at a time."""

    elsewhere = False

    def __init__(self, slots: int):
        self.slots = slots
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, runs: Sequence[ChildRun]) -> None:
        for run in runs:
            run.start()
            assert run.process is not None
            self._processes.append(run.process)

    def poll(self, run: ChildRun) -> None:
        code = None if run.process is None else run.process.poll()
        # Of a process that a signal ended, as a shell has it.
        run.exit_code = code if code is None or code >= 0 else 128 - code

    def stop(self, run: ChildRun, number: int) -> None:
        if run.process is not None:
            run.process.send_signal(number)

    def close(self) -> None:
        for process in self._processes:  # only after an exception is one of them still running
            if process.poll() is None:
                process.terminate()
                process.wait()


def run_all(runs: Sequence[ChildRun], engine: Engine, on_turn: Callable[[], None] = lambda: None) -> int:
    """Runs all of them; a failed one stops no other.

    `on_turn` is called several times a second, and may add runs. Returns 0, the exit code of the first run that failed,
    or that of the signal that stopped them. Raises MtrlError.
    """
    submitted: set[int] = set()
    with Interruption() as interruption:
        try:
            while any(run.state in ("waiting", "running") for run in runs):
                if interruption:
                    for run in runs:
                        stop(run, engine, interruption.exit_code - 128)
                active = [run for run in runs if id(run) in submitted and run.exit_code is None]
                waiting = [run for run in runs if id(run) not in submitted and run.state == "waiting"]
                if begun := waiting[: max(0, engine.slots - len(active))]:
                    submitted.update(map(id, begun))
                    engine.start(begun)
                for run in active:
                    engine.poll(run)
                    run.out_of_time = run.exit_code == 0 and read_status(run.run_dir).status == "interrupted"
                    if run.exit_code in PREEMPTED and engine.elsewhere and not run.stopped and run.again():
                        submitted.discard(id(run))
                on_turn()
                time.sleep(POLL_SECONDS)
        finally:
            engine.close()
        if interruption:
            return interruption.exit_code
        return next((run.exit_code for run in runs if run.exit_code and run.state == "failed"), 0)


def stop(run: ChildRun, engine: Engine, number: int) -> None:
    """Once; a run that is not started yet stays so."""
    if not run.stopped and run.exit_code is None:
        run.stopped = True
        engine.stop(run, number)
