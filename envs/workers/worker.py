"""The body of a worker process: waits for a byte, plays its slots, answers with a byte.

It imports neither torch nor a package that does.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import traceback
from dataclasses import dataclass

from envs.workers.descriptors import Descriptor, mapped
from envs.workers.slots import SlotArrays, SlotLayout, SlotRunner

FINISHED = b"."
RAISED = b"!"
"""In place of `FINISHED`: the worker ends, and its report begins with a line that says why."""


@dataclass(frozen=True, kw_only=True)
class WorkerSeat:
    """What a worker needs to know and hold; arrives with the process's arguments."""

    index: int
    slots: tuple[int, ...]
    layout: SlotLayout
    memory: Descriptor  # the shared arrays
    wake: Descriptor  # read end: a command per byte; closed by the main process to end the worker
    finished: Descriptor  # write end: a byte when a command has been carried out
    report: Descriptor  # file for a traceback

    def close(self) -> None:
        """Closes this process's copies of what only the worker shall hold."""
        self.wake.close()
        self.finished.close()


def run_worker(seat: WorkerSeat, pickled_factory: bytes) -> None:
    """Serves commands until the main process closes the wake pipe."""
    # A crash in native code, and a hang that the main process asks about, leave a traceback too.
    faulthandler.enable(seat.report.fd)
    faulthandler.register(signal.SIGUSR1, seat.report.fd)
    ask_for_batch_scheduling()
    runner: SlotRunner | None = None
    try:
        memory = mapped(seat.memory, seat.layout.num_bytes)
        # Made by the main process for its own children, never read from a file.
        factory = pickle.loads(pickled_factory)
        runner = SlotRunner(SlotArrays(seat.layout, memory), seat.slots, seat.index, factory)
        while command := os.read(seat.wake.fd, 1):
            runner.run(command)
            os.write(seat.finished.fd, FINISHED)
    except BaseException as error:  # sys.exit in an environment too
        fault = runner.describe(error) if runner else f"raised {type(error).__name__}: {error}"
        os.write(seat.report.fd, f"{fault}\n{traceback.format_exc()}".encode(errors="replace"))
        with contextlib.suppress(BrokenPipeError):
            os.write(seat.finished.fd, RAISED)
        os._exit(1)


def ask_for_batch_scheduling() -> None:
    """A worker that wakes then does not push the main process off its core, which has others to wake, and to learn.

    A hint: some containers refuse it, and so does the idle class.
    """
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: not on Linux
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
