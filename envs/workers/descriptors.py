"""File descriptors and anonymous memory that a new process receives with its arguments.

Nothing here has a name in the file system, so nothing is left behind when a process is killed.
"""

from __future__ import annotations

import mmap
import multiprocessing.reduction
import os
import tempfile
from typing import Any


class Descriptor:
    """Owns a file descriptor; can be an argument of a new process, which then owns a duplicate."""

    def __init__(self, fd: int):
        self.fd = fd

    def __reduce__(self) -> Any:
        return _receive, (multiprocessing.reduction.DupFd(self.fd),)

    def close(self) -> None:
        """Closes it in this process; safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def detach(self) -> int:
        """Hands the descriptor over: the caller closes it."""
        fd, self.fd = self.fd, -1
        return fd

    def __del__(self) -> None:
        self.close()


def _receive(duplicate: Any) -> Descriptor:
    return Descriptor(duplicate.detach())


def pipe() -> tuple[Descriptor, Descriptor]:
    """A new pipe: its read end and its write end."""
    read_end, write_end = os.pipe()
    return Descriptor(read_end), Descriptor(write_end)


def anonymous_file(num_bytes: int) -> Descriptor:
    """A file of zeros without a name; it is gone with its last descriptor and mapping."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("mtrl")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, num_bytes)
    return Descriptor(fd)


def mapped(file: Descriptor, num_bytes: int) -> mmap.mmap:
    """The file's content as memory that every process that maps it shares."""
    return mmap.mmap(file.fd, num_bytes)
