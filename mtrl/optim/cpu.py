"""Threads and memory of this process."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER = 2**31 - 1


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Tells glibc to reuse large blocks rather than to hand them back; without glibc, nothing.

    Otherwise a tensor above 32 MB is mapped anew by every operation that makes one, and the kernel clears it page by
    page: a PPO minibatch of 768 frame stacks takes 90 000 page faults (cost: `benchmarks.updates.encoders`).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


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
