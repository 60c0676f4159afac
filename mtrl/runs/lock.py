"""One run directory, one trainer: a lock that the system lets go of by itself when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

from mtrl.errors import BadInput
from mtrl.checkpoints.files import printable, read_small_file, write_all
from mtrl.checkpoints.strict_json import InvalidJson, dump, parse

logger = logging.getLogger(__name__)

PURPOSE = "mtrl run directory"
NOBODY = 0
_NAMING_SECONDS = 1.0  # a holder writes its name right after it got the lock


class RunLock:
    """Held from construction until `release` or the end of the process, however it ends.

    The file stays when the lock is released: removing it would let two processes lock two files of one name.
    """

    def __init__(self, path: Path):
        """Raises BadInput naming the process that holds the lock, OSError if the file cannot be made."""
        self.path = path
        # Closed on exec, so that a worker that outlives a killed trainer does not hold its lock.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)
        try:
            self._acquire()
        except BaseException:
            self._close()
            raise

    def release(self) -> None:
        """Lets go of the lock; nothing if that was done."""
        if self._descriptor >= 0:
            # Otherwise the next holder, until it has written its own name, would be reported under this one.
            with contextlib.suppress(OSError):
                self._write_holder(NOBODY)
            self._close()

    def _acquire(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"run directory {printable(str(self.path.parent), 160)} is in use by {self._holder()}"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise
            logger.warning("the file system of %s has no locks; keep other trainers away", printable(str(self.path)))
        if os.fstat(self._descriptor).st_size and read_holder(self.path) is None:
            raise BadInput(f"{printable(str(self.path), 160)} is not the lock of a run directory; move it away")
        self._write_holder(os.getpid())

    def _write_holder(self, pid: int) -> None:
        holder = {"purpose": PURPOSE, "pid": pid, "boot": _boot_id(), "host": socket.gethostname()}
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        write_all(self._descriptor, dump(holder) + b"\n")

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1

    def _holder(self) -> str:
        deadline = time.monotonic() + _NAMING_SECONDS
        while time.monotonic() < deadline:
            holder = read_holder(self.path)
            if holder is not None and holder["pid"] != NOBODY:
                if holder["boot"] != _boot_id():
                    return f"process {holder['pid']} on host {printable(holder['host'])}"
                with contextlib.suppress(ProcessLookupError):  # the name of an earlier holder: read again
                    with contextlib.suppress(PermissionError):
                        os.kill(holder["pid"], 0)
                    return f"process {holder['pid']}"
            time.sleep(0.02)
        return "another process"


def read_holder(path: Path) -> dict[str, Any] | None:
    """Who locked `path` last (pid NOBODY: it was released); None if the file is not a lock of a run directory."""
    try:
        holder = parse(read_small_file(path, 4096))
    except (OSError, BadInput, InvalidJson):
        return None
    expected = {"purpose": str, "pid": int, "boot": str, "host": str}
    if not isinstance(holder, dict) or any(type(holder.get(name)) is not kind for name, kind in expected.items()):
        return None
    return holder if holder["purpose"] == PURPOSE and 0 <= holder["pid"] < 2**31 else None


def _boot_id() -> str:
    """Tells this boot of this machine from every other."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return socket.gethostname()
