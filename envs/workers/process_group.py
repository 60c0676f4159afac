"""Worker processes seen from the main process: starts, wakes, awaits and ends them, and names the one that failed.

One byte through a pipe wakes a worker, one byte answers; a worker that dies closes its end, so a death is seen at once.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from envs.workers.child_process import ChildProcess, refusals_named, warm_up
from envs.workers.descriptors import Descriptor, anonymous_file, mapped, pipe
from envs.workers.load_balancing import balanced_slots
from envs.workers.slots import SlotArrays, SlotEnvFactory, SlotLayout
from envs.workers.worker import RAISED, WorkerSeat, run_worker
from mtrl.errors import WorkerFailure

_POLL_SECONDS = 0.25
_GRACE_SECONDS = 1.0  # for a worker to end by itself, and for its exit code to arrive
_REPORT_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class _Worker:
    """One process and this side of its pipes."""

    process: ChildProcess
    wake: Descriptor  # write end
    finished: Descriptor  # read end
    report: Descriptor

    def end(self, deadline: float) -> None:
        """Waits until `deadline` (monotonic seconds) for it to end by itself, then kills it."""
        self.process.exit_code(max(0.0, deadline - time.monotonic()))
        self.process.kill()
        for descriptor in (self.wake, self.finished, self.report):
            descriptor.close()


class ProcessGroup:
    """K processes that share the slots out."""

    def __init__(self, layout: SlotLayout, make_env: SlotEnvFactory, task_names: Sequence[str], timeout: float):
        """Raises WorkerFailure if the system has no memory or descriptor to spare."""
        self._layout = layout
        with refusals_named("shared memory for workers"):
            self._memory = anonymous_file(layout.num_bytes)
            self.arrays = SlotArrays(layout, mapped(self._memory, layout.num_bytes))
        self._make_env = make_env
        self._task_names = task_names
        self._timeout = timeout
        self._workers: list[_Worker] = []
        self._index_of: dict[int, int] = {}  # worker by the descriptor of its answers
        self._poll = select.poll()
        self._awaited: set[int] = set()
        self._failure: WorkerFailure | None = None
        self._closed = False

    def start(self, costs: Sequence[float]) -> None:
        """Starts the processes, unless they run; `costs` (N,) are how long a step of each slot takes, in any unit.

        Raises WorkerFailure where the system refuses.
        """
        self._check_usable()
        if self._workers:
            return
        warm_up(["envs.workers.worker"])  # unless a suite has done it with its simulator
        pickled_factory = pickle.dumps(self._make_env)
        try:
            for index, slots in enumerate(balanced_slots(costs, self._layout.num_workers)):
                worker = self._start_worker(index, slots, pickled_factory)
                self._workers.append(worker)
                self._index_of[worker.finished.fd] = index
                self._poll.register(worker.finished.fd, select.POLLIN)
        except WorkerFailure as failure:
            self._failure = failure
            self._end(0)
            raise

    def command(self, command: bytes) -> None:
        """Wakes every worker. Raises WorkerFailure if one has failed before."""
        self._check_usable()
        self._awaited.update(range(len(self._workers)))
        for worker in self._workers:
            # A dead worker's other pipe is closed as well, and `wait` tells of it.
            with contextlib.suppress(BrokenPipeError):
                os.write(worker.wake.fd, command)

    def wait(self) -> None:
        """Until every worker has carried the last command out. Raises WorkerFailure."""
        self._check_usable()
        stalled = 0.0  # seconds without progress
        progress = self.arrays.progress.copy()
        while self._awaited:
            started = time.monotonic()
            answers = self._poll.poll(1000 * _POLL_SECONDS)
            for fd, _ in answers:
                index = self._index_of[fd]
                answer = os.read(fd, 1)
                if not answer:
                    raise self._fail(index, f" {self._describe_death(index)}")
                if answer == RAISED:
                    raise self._fail(index, ": ")
                self._awaited.discard(index)
            if answers:
                continue
            if np.array_equal(progress, self.arrays.progress):
                # Time in which this process itself was stopped does not count against the worker.
                stalled += min(time.monotonic() - started, 2 * _POLL_SECONDS)
            else:
                stalled, progress = 0.0, self.arrays.progress.copy()
            if stalled >= self._timeout:
                index = min(self._awaited)
                raise self._fail(index, f" {self._describe_hang(index)}")

    def close(self) -> None:
        """Ends every process; a worker that does not end by itself is killed. Safe to call twice."""
        self._closed = True
        self._end(_GRACE_SECONDS)
        self._memory.close()

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise WorkerFailure("the environments are closed")

    def _start_worker(self, index: int, slots: tuple[int, ...], pickled_factory: bytes) -> _Worker:
        with refusals_named("the pipes of a worker"):
            wake_read, wake_write = pipe()
            finished_read, finished_write = pipe()
            report = anonymous_file(0)
        seat = WorkerSeat(
            index=index,
            slots=slots,
            layout=self._layout,
            memory=self._memory,
            wake=wake_read,
            finished=finished_write,
            report=report,
        )
        try:
            process = ChildProcess(run_worker, seat, pickled_factory)
        except BaseException:
            for descriptor in (wake_write, finished_read, seat.report):
                descriptor.close()
            raise
        finally:
            seat.close()
        return _Worker(process=process, wake=wake_write, finished=finished_read, report=seat.report)

    def _fail(self, index: int, what: str) -> WorkerFailure:
        """`what` it did; after a colon its report goes on."""
        worker = self._workers[index]
        report = os.pread(worker.report.fd, _REPORT_BYTES, 0).decode(errors="replace").rstrip()
        activity = self.arrays.activity(index, self._task_names)
        separator = "" if what.endswith(": ") or not report else "\n"
        self._failure = WorkerFailure(
            f"environment worker {index} (pid {worker.process.pid}) {activity}{what}{separator}{report}"
        )
        self._end(0)
        return self._failure

    def _describe_death(self, index: int) -> str:
        code = self._workers[index].process.exit_code(_GRACE_SECONDS)
        if code is None:
            return "closed its pipe"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"exited with code {code}"

    def _describe_hang(self, index: int) -> str:
        # A signal handler of the worker writes its stack into the report.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._workers[index].process.pid, signal.SIGUSR1)
        time.sleep(_POLL_SECONDS)
        return f"did not answer for {self._timeout:g} s"

    def _end(self, grace: float) -> None:
        for worker in self._workers:
            worker.wake.close()
        deadline = time.monotonic() + grace
        for worker in self._workers:
            worker.end(deadline)
        self._workers.clear()
        self._awaited.clear()
