"""A run on another machine of a cluster, which shares the folder of the sweep."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from filelock import FileLock, Timeout

from mtrl.launch.processes import ChildRun, LocalEngine, run_all
from mtrl.runs.run_directory import LOCK

LOCK_SECONDS = 60.0
"""That the machine which had the run before may take to notice that it has it no more."""


def train_here(run: ChildRun, folder: str) -> int:
    """Begins or continues a run in a process of its own; returns its exit code.

    folder: where relative paths start. A signal is passed on, so that the run saves a checkpoint.
    """
    os.chdir(folder)
    _await_lock(run)
    return run_all([run], LocalEngine(1))


def _await_lock(run: ChildRun) -> None:
    """Waits until no other trainer holds the run; one that does not let go is named by the run itself."""
    if (run.run_dir / LOCK).exists():
        with contextlib.suppress(Timeout, OSError), FileLock(run.run_dir / LOCK, LOCK_SECONDS, preserve_lock_file=True):
            pass


def save_and_end(run: ChildRun) -> None:
    """Has the process of a run save a checkpoint, and waits for its end; may be called from a signal handler."""
    if run.process is not None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(run.process.pid, signal.SIGTERM)
            # Popen.wait takes a lock, which what the signal has interrupted may hold.
            while os.waitpid(run.process.pid, os.WNOHANG) == (0, 0):
                time.sleep(0.05)
