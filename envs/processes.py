"""Starting worker processes: forked from a small server that has imported the simulator once.

The server is started by `warm_up`, best before the main process begins its own imports: the two then run side by side,
and a worker starts in milliseconds. Neither the server nor a worker is a copy of the main process, so no thread, lock
or GPU handle of it is copied.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

_PRELOAD = ("envs.worker", "envs.metaworld.slot_env")

_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_context = multiprocessing.get_context("forkserver")


def warm_up(modules: Sequence[str] = _PRELOAD) -> None:
    """Starts the server that forks workers, if it does not run yet, and returns at once.

    `modules` are imported there, in the background; one that cannot be imported is left out.
    """
    _context.set_forkserver_preload(list(modules))
    with _signals_blocked(), _one_thread_each(), _no_main_module():
        forkserver.ensure_running()


def start_process(target: Callable[..., None], *args: Any) -> BaseProcess:
    """Runs `target(*args)` in a new process that ends with this one's normal exit at the latest."""
    warm_up()
    process = _context.Process(target=target, args=args, daemon=True)
    # Functions and classes of the main script need that script; anything else is spared running it a second time.
    if b"__main__" in bytes(ForkingPickler.dumps(target)) + b"".join(a for a in args if isinstance(a, bytes)):
        process.start()
    else:
        with _no_main_module():
            process.start()
    return process


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """The mask is inherited by the server and its workers: only the main process answers to Ctrl-C and SIGTERM."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """A linear-algebra library reads these when it is loaded; a server without threads is also safe to fork."""
    previous = {name: os.environ.get(name) for name in _THREAD_LIMITS}
    os.environ.update(dict.fromkeys(_THREAD_LIMITS, "1"))
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Without a main module, `multiprocessing` does not run the user's script again in each new process.

    That run costs what the script imports, and recurses where the script has no `__main__` guard.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
