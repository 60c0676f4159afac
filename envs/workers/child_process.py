"""Child processes: forked from a small server that has imported the simulator once, and gone with their parent.

The server is started by `warm_up`, best before the main process begins its own imports: the two then run side by side,
and a child starts in milliseconds. Neither the server nor a child is a copy of the main process, so no thread, lock or
GPU handle of it is copied.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import multiprocessing.util
import os
import resource
import select
import signal
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from envs.workers.descriptors import Descriptor, pipe
from mtrl.errors import WorkerFailure
from mtrl.registry import own_packages_first

_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_LONGEST_TEMPORARY_FOLDER = 70
"""Bytes: macOS allows addresses of 103, of which 32 are names inside the folder."""

_OF_THE_MAIN_PROCESS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that a terminal or a scheduler sends to all processes of a run, of which one has to answer."""

_context = multiprocessing.get_context("forkserver")

_starting = threading.RLock()
"""Held while a server or child starts: environment variables, path and main module are changed and put back then, and a
second thread would put back what the first one had set."""


def _forget_the_parents_server() -> None:
    """A forked copy of this process needs a server of its own: its parent's is no child of it."""
    global _starting
    _starting = threading.RLock()  # another thread of the parent may hold it, which is not there to release it
    server: Any = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
    server.__init__()


os.register_at_fork(after_in_child=_forget_the_parents_server)


def warm_up(modules: Sequence[str] = ()) -> None:
    """Starts the server that forks children, if it does not run yet, and returns at once.

    `modules` are imported there, in the background; one that cannot be imported is left out. Nothing happens where the
    system refuses: the first child says so.
    """
    with contextlib.suppress(OSError):
        _start_server(modules)


@contextmanager
def refusals_named(what: str) -> Iterator[None]:
    """Raises WorkerFailure, in one line, where the system has no descriptor, process or memory for `what`."""
    try:
        yield
    except (OSError, EOFError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, (EOFError, ConnectionError)):  # the server could not do it, and ended
            reason = "the process that forks workers has ended"
        limits = ", ".join(f"{name} {limit}" for name, limit in _limits())
        raise WorkerFailure(f"the system refuses {what}: {reason} (limits here: {limits})") from error


def _limits() -> Iterator[tuple[str, str]]:
    """What `ulimit` sets, of what processes need."""
    for name, kind in (
        ("open files", resource.RLIMIT_NOFILE),
        ("processes", resource.RLIMIT_NPROC),
        ("bytes of address space", resource.RLIMIT_AS),
    ):
        soft, _ = resource.getrlimit(kind)
        yield name, "unlimited" if soft == resource.RLIM_INFINITY else str(soft)


def _start_server(modules: Sequence[str]) -> None:
    # Also without modules: the default is to run the main script there.
    _context.set_forkserver_preload(["mtrl", "envs.workers.server", *modules])
    with _starting, _signals_blocked(), _environment(), _no_main_module(), _short_temporary_folder():
        forkserver.ensure_running()


class ChildProcess:
    """Runs `target(*args)` in a new process.

    It obeys this process alone: it ignores Ctrl-C, SIGTERM and a closed terminal, and is killed by the kernel when this
    process dies, also out of an endless loop (on Linux).
    """

    def __init__(self, target: Callable[..., None], *args: Any):
        """Raises WorkerFailure if the system refuses a process."""
        with refusals_named("a process"):
            _start_server(())
            lifeline, lifeline_here = pipe()
        process = _context.Process(target=_run, args=(lifeline, target, args), daemon=True)
        # What is defined in the main script needs that script; anything else is spared running it again.
        pickled = bytes(ForkingPickler.dumps(target)) + b"".join(arg for arg in args if isinstance(arg, bytes))
        without_main = contextlib.nullcontext() if b"__main__" in pickled else _no_main_module()
        try:
            with _starting, without_main, refusals_named("a process"):
                process.start()
        except BaseException:
            lifeline_here.close()
            raise
        finally:
            lifeline.close()
        self._process = process
        self.pid: int = process.pid or 0
        # Runs when this object is forgotten, and at exit before `multiprocessing` waits for its children.
        self.kill = multiprocessing.util.Finalize(self, _kill, (process, lifeline_here), exitpriority=10)
        """Ends it now and waits until it is gone; safe to call twice."""

    def exit_code(self, seconds: float) -> int | None:
        """Waits for the end, at most `seconds`; minus the signal's number if one killed it, None if it still runs."""
        self._process.join(seconds)
        return self._process.exitcode


def _kill(process: BaseProcess, lifeline: Descriptor) -> None:
    lifeline.close()
    if process.is_alive():
        process.kill()
    process.join()
    process.close()


def _run(lifeline: Descriptor, target: Callable[..., None], args: tuple[Any, ...]) -> None:
    for number in _OF_THE_MAIN_PROCESS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(fcntl, "F_SETSIG"):
        # The kernel's own signal when the other end closes: no thread of ours is needed, and no loop can delay it.
        fcntl.fcntl(lifeline.fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline.fd, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(lifeline.fd, fcntl.F_GETFL)
        fcntl.fcntl(lifeline.fd, fcntl.F_SETFL, flags | os.O_ASYNC)
    closed = select.poll()
    closed.register(lifeline.fd, 0)
    if closed.poll(0):
        os._exit(1)
    # If memory runs out, the kernel shall take a child and leave the process that can save.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    target(*args)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """The mask is inherited by the server and its children: only the main process answers to these signals."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_MAIN_PROCESS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


@contextmanager
def _environment() -> Iterator[None]:
    """The environment in which the server starts; what it imports is inherited by its children."""
    # A linear-algebra library reads these when it is loaded; a server without threads is also safe to fork.
    own = dict.fromkeys(_THREAD_LIMITS, "1")
    # It looks for modules where this process does, but first for ours: another folder `envs` may lie there.
    own["PYTHONSAFEPATH"] = "1"
    previous = {name: os.environ.get(name) for name in (*own, "PYTHONPATH")}
    try:
        with own_packages_first():
            own["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
            os.environ.update(own)
            yield
    finally:
        for name, value in previous.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _short_temporary_folder() -> Iterator[None]:
    """The address of the server's socket is a path in the temporary folder, and may have about a hundred bytes."""
    previous = tempfile.tempdir
    if len(os.fsencode(tempfile.gettempdir())) > _LONGEST_TEMPORARY_FOLDER:
        short = [folder for folder in ("/tmp", "/var/tmp", "/dev/shm") if os.access(folder, os.W_OK | os.X_OK)]
        tempfile.tempdir = next(iter(short), previous)
    try:
        yield
    finally:
        tempfile.tempdir = previous


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
