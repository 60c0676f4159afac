"""Limits of the system that a command ran into: no bug, and no matter of its input."""

from __future__ import annotations

import errno

from mtrl.optim.cpu import available_memory

NEARLY_NOTHING = 2**27
"""Bytes of memory with which torch and Python raise whatever comes, such as SystemError."""

_REFUSALS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


def reached_limit(error: BaseException) -> str | None:
    """One line for an error that says no more than that the system had nothing left to give; None for all others."""
    available = available_memory()
    if isinstance(error, MemoryError) or (available is not None and available < NEARLY_NOTHING):
        there = "" if available is None else f": {available:,} bytes are there"
        return f"out of memory{there} (see ulimit -v and the limits of the container)"
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        return f"the system refuses more: {error.strerror} (see ulimit -n and ulimit -u)"
    return None
