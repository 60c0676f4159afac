"""Lock of a run directory: at most one trainer at a time. The system releases it when its holder dies."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

from filelock import FileLock, Timeout

from mtrl.checkpoints.files import printable

logger = logging.getLogger(__name__)

_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}


class RunLock:
    """Held from construction until `release` or the end of the process.

    The file stays when the lock is released: removing it would let two processes lock two files of one name.
    """

    def __init__(self, path: Path):
        """Raises filelock.Timeout if another trainer holds the lock, OSError if the file cannot be made."""
        self.path = path
        self._lock = FileLock(path, blocking=False, thread_local=False, fallback_to_soft=False, preserve_lock_file=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.warning("the file system of %s has no locks; keep other trainers away", printable(str(path)))
        self._file = self._identity()

    def in_place(self) -> bool:
        """Whether the path still leads to the file that was locked."""
        try:
            return self._identity() == self._file
        except OSError:
            return False

    def release(self) -> None:
        self._lock.release(force=True)

    def _identity(self) -> tuple[int, int]:
        status = os.stat(self.path, follow_symlinks=False)
        return status.st_dev, status.st_ino
