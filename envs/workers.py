"""The main process's side of the workers: starts, wakes, waits for and ends them, and names the one that failed.

One byte through a pipe wakes a worker, one byte answers; a worker that dies closes its end, so a death is seen at once.
"""

from __future__ import annotations

import contextlib
import multiprocessing.util
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

import numpy as np

from envs.descriptors import Descriptor, anonymous_file, mapped, pipe
from envs.processes import start_process
from envs.slots import NOBODY, SlotArrays, SlotEnvFactory, SlotLayout, SlotRunner
from envs.worker import BEGIN, WorkerSeat, run_worker
from mtrl.errors import WorkerFailure

_POLL_SECONDS = 0.25
_GRACE_SECONDS = 1.0  # for a worker to end by itself
_REPORT_BYTES = 64 * 1024


class LocalWorker:
    """Plays all slots in this process."""

    def __init__(self, layout: SlotLayout, make_env: SlotEnvFactory, task_names: Sequence[str]):
        self.arrays = SlotArrays(layout, bytearray(layout.num_bytes))
        self._task_names = task_names
        self._runner = SlotRunner(self.arrays, range(layout.num_slots), 0, make_env)

    def command(self, command: bytes) -> None:
        """Carries the command out. Raises WorkerFailure."""
        try:
            self._runner.begin() if command == BEGIN else self._runner.step()
        except Exception as error:
            activity = _activity(self.arrays, 0, self._task_names)
            raise WorkerFailure(
                f"environment (in process {os.getpid()}, no workers) {activity} raised "
                f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            ) from error

    def wait(self) -> None:
        """Nothing is in flight."""

    def close(self) -> None:
        """Nothing to end."""


@dataclass(kw_only=True)
class _Worker:
    """One process and what it is reached by."""

    process: BaseProcess
    slots: tuple[int, ...]
    wake: Descriptor
    finished: Descriptor
    lifeline: Descriptor
    report: Descriptor


class Workers:
    """K processes that share the slots out; started by the first command."""

    def __init__(self, layout: SlotLayout, make_env: SlotEnvFactory, task_names: Sequence[str], timeout: float):
        self._layout = layout
        self._memory = anonymous_file(layout.num_bytes)
        self.arrays = SlotArrays(layout, mapped(self._memory, layout.num_bytes))
        self._make_env = make_env
        self._task_names = task_names
        self._timeout = timeout
        self._workers: list[_Worker] = []
        self._awaited: set[int] = set()
        self._poll = select.poll()
        self._failure: WorkerFailure | None = None
        self._closed = False
        # Before the interpreter's exit joins its children: they wait for a pipe that is still open.
        self._finalizer = multiprocessing.util.Finalize(self, _end, (self._workers,), exitpriority=10)

    def command(self, command: bytes) -> None:
        """Wakes every worker. Raises WorkerFailure if one has failed before."""
        if self._closed:
            raise RuntimeError("the environments are closed")
        if self._failure is not None:
            raise self._failure
        if not self._workers:
            self._start()
        for index, worker in enumerate(self._workers):
            # A dead worker's other pipe is closed as well, and `wait` tells of it.
            with contextlib.suppress(BrokenPipeError):
                os.write(worker.wake.fd, command)
            self._awaited.add(index)

    def wait(self) -> None:
        """Until every worker has carried the last command out. Raises WorkerFailure."""
        if self._failure is not None:
            raise self._failure
        waited = 0.0
        progress = self.arrays.progress.copy()
        while self._awaited:
            started = time.monotonic()
            answers = self._poll.poll(1000 * _POLL_SECONDS)
            for fd, _ in answers:
                index = self._index_of[fd]
                if not os.read(fd, 1):
                    raise self._fail(index, self._describe_death(index))
                self._awaited.discard(index)
            if answers:
                continue
            # Time in which this process itself was stopped does not count against the worker.
            waited += min(time.monotonic() - started, 2 * _POLL_SECONDS)
            awaited = sorted(self._awaited)
            if not np.array_equal(progress, self.arrays.progress):
                waited, progress = 0.0, self.arrays.progress.copy()
            elif waited >= self._timeout:
                raise self._fail(awaited[0], self._describe_hang(awaited[0]))

    def close(self) -> None:
        """Ends every process; a worker that does not end by itself is killed. Safe to call twice."""
        self._closed = True
        self._finalizer()
        self._memory.close()

    def _start(self) -> None:
        pickled_factory = pickle.dumps(self._make_env)
        self._index_of: dict[int, int] = {}
        for index in range(self._layout.num_workers):
            # Interleaved, because neighbouring tasks of a suite tend to cost alike.
            slots = tuple(range(index, self._layout.num_slots, self._layout.num_workers))
            worker = self._start_worker(index, slots, pickled_factory)
            self._workers.append(worker)
            self._index_of[worker.finished.fd] = index
            self._poll.register(worker.finished.fd, select.POLLIN)

    def _start_worker(self, index: int, slots: tuple[int, ...], pickled_factory: bytes) -> _Worker:
        wake_read, wake_write = pipe()
        finished_read, finished_write = pipe()
        lifeline_read, lifeline_write = pipe()
        report = anonymous_file(0)
        seat = WorkerSeat(
            index=index,
            slots=slots,
            layout=self._layout,
            memory=self._memory,
            wake=wake_read,
            finished=finished_write,
            lifeline=lifeline_read,
            report=report,
        )
        try:
            process = start_process(run_worker, seat, pickled_factory)
        finally:
            # Only the worker may hold these, or its death would not close them.
            for descriptor in (wake_read, finished_write, lifeline_read):
                descriptor.close()
        return _Worker(
            process=process,
            slots=slots,
            wake=wake_write,
            finished=finished_read,
            lifeline=lifeline_write,
            report=report,
        )

    def _fail(self, index: int, what: str) -> WorkerFailure:
        worker = self._workers[index]
        line = (
            f"environment worker {index} (pid {worker.process.pid}) {_activity(self.arrays, index, self._task_names)}"
        )
        report = os.pread(worker.report.fd, _REPORT_BYTES, 0).decode(errors="replace").rstrip()
        if report.startswith("Traceback"):
            what = f"raised {report.splitlines()[-1]}"
        self._failure = WorkerFailure(f"{line} {what}" + (f"\n{report}" if report else ""))
        self._finalizer()
        return self._failure

    def _describe_death(self, index: int) -> str:
        process = self._workers[index].process
        process.join(_GRACE_SECONDS)
        code = process.exitcode
        if code is None:
            return "closed its pipe"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"exited with code {code}"

    def _describe_hang(self, index: int) -> str:
        # The worker's stack, written by a signal handler of faulthandler.
        os.kill(self._workers[index].process.pid or 0, signal.SIGUSR1)
        time.sleep(0.2)
        return f"did not answer for {self._timeout:g} s"


def _activity(arrays: SlotArrays, index: int, task_names: Sequence[str]) -> str:
    """What the worker was doing, e.g. `at task reach-v3 in slot 3`."""
    slot, task = int(arrays.busy_slot[index]), int(arrays.busy_task[index])
    return "at no task" if slot == NOBODY else f"at task {task_names[task]} in slot {slot}"


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.wake.close()
    deadline = time.monotonic() + _GRACE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        for descriptor in (worker.finished, worker.lifeline, worker.report):
            descriptor.close()
    workers.clear()
