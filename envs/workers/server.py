"""Error output of the server that forks workers, which imports this module.

What the system refuses the server ends it; the main process notices, and says so in one line. So no traceback is
printed for it. Errors in the workers themselves are printed as usual.
"""

import os
import sys
from types import TracebackType

_PID = os.getpid()


def _hide_refusals(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if os.getpid() != _PID or not isinstance(error, (OSError, RuntimeError, MemoryError)):
        sys.__excepthook__(kind, error, trace)


if sys.argv[0] == "-c" and "multiprocessing.forkserver" in sys.modules:  # not where it is imported by mistake
    sys.excepthook = _hide_refusals
