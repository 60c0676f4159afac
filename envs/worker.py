"""The body of a worker process: waits for a byte, plays its slots, answers with a byte.

It obeys the main process alone: interrupts do not reach it, and the kernel kills it when the main process dies, also
out of an endless loop. It imports neither torch nor the package that does.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import pickle
import select
import signal
import traceback
from dataclasses import dataclass
from pathlib import Path

from envs.descriptors import Descriptor, mapped
from envs.slots import SlotArrays, SlotLayout, SlotRunner

BEGIN = b"b"
STEP = b"s"
FINISHED = b"."


@dataclass(frozen=True, kw_only=True)
class WorkerSeat:
    """What a worker needs to know and hold; arrives with the process's arguments."""

    index: int
    slots: tuple[int, ...]
    layout: SlotLayout
    memory: Descriptor  # the shared arrays
    wake: Descriptor  # read end: a command per byte; closed by the main process to end the worker
    finished: Descriptor  # write end: a byte when a command has been carried out
    lifeline: Descriptor  # read end of a pipe whose other end nobody but the main process holds
    report: Descriptor  # file for a traceback


def run_worker(seat: WorkerSeat, pickled_factory: bytes) -> None:
    """Serves commands until the main process closes the wake pipe."""
    _prepare_process(seat)
    try:
        memory = mapped(seat.memory, seat.layout.num_bytes)
        # Made by the main process for its own children, never read from a file.
        factory = pickle.loads(pickled_factory)
        runner = SlotRunner(SlotArrays(seat.layout, memory), seat.slots, seat.index, factory)
        while command := os.read(seat.wake.fd, 1):
            runner.begin() if command == BEGIN else runner.step()
            os.write(seat.finished.fd, FINISHED)
    except BaseException:
        os.write(seat.report.fd, traceback.format_exc().encode(errors="replace"))
        os._exit(1)


def _prepare_process(seat: WorkerSeat) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable(seat.report.fd)
    faulthandler.register(signal.SIGUSR1, seat.report.fd)
    if hasattr(fcntl, "F_SETSIG"):
        # The kernel's own signal on hang-up needs no thread of ours, so a loop in native code cannot delay it.
        fcntl.fcntl(seat.lifeline.fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(seat.lifeline.fd, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(seat.lifeline.fd, fcntl.F_GETFL)
        fcntl.fcntl(seat.lifeline.fd, fcntl.F_SETFL, flags | os.O_ASYNC)
    hung_up = select.poll()
    hung_up.register(seat.lifeline.fd, select.POLLHUP)
    if hung_up.poll(0):
        os._exit(1)
    # If memory runs out, the kernel shall take the worker and leave the process that can save.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
