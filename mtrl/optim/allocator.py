"""How this process asks the system for memory."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Tells glibc to reuse large blocks rather than to hand them back; without glibc, nothing.

    Otherwise a tensor above 32 MB is mapped anew by every operation that makes one, and the kernel clears it page by
    page: a PPO minibatch of 768 frame stacks takes 90 000 page faults (`benchmarks.updates.encoders` measures what they cost).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
