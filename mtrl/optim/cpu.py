"""Threads, memory and end of this process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARENT = "MTRL_PARENT"
"""Environment variable with the process without which this one shall not live."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER = 2**31 - 1
_UNREADABLE = (OSError, ValueError, LookupError, MemoryError)  # a file of /proc that is not there, or not as on Linux


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int | None:
    """Bytes that this process can still take; None where the system does not tell."""
    answers = []
    with contextlib.suppress(*_UNREADABLE):
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        answers.append(sum(int(fields[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree")))
    # Of a container, whose share can be smaller than the machine; "max" is none.
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(*_UNREADABLE):
            answers.append(int(Path(file).read_text()))
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        with contextlib.suppress(*_UNREADABLE):
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            answers.append(max(0, limit - used))
    return min(answers, default=None)


def keep_freed_memory() -> None:
    """Tells glibc to reuse large blocks rather than to hand them back; without glibc, nothing.

    Otherwise a tensor above 32 MB is mapped anew by every operation that makes one, and the kernel clears it page by
    page: a PPO minibatch of 768 frame stacks takes 90 000 page faults (cost: `benchmarks.updates.encoders`).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


def end_with_parent() -> None:
    """Has the system kill this process when its parent dies, if that is wanted (`PARENT`); elsewhere than on Linux, no.

    Otherwise a run would go on, and hold its lock, when the program that looks after it is killed.
    """
    parent = os.environ.pop(PARENT, "")  # not meant for the children of this process
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if parent and prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it died before
            sys.exit(128 + signal.SIGKILL)


@contextmanager
def acting_threads(observation_shape: tuple[int, ...]) -> Iterator[None]:
    """One torch thread where observations are vectors; torch's number, which learning keeps, where they are images.

    A few samples of an MLP are nothing to share out, and an OpenMP thread that waits for more of them keeps the
    environments off its core.
    """
    import torch  # the command line needs the other functions before it imports torch

    threads = torch.get_num_threads()
    if len(observation_shape) == 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
