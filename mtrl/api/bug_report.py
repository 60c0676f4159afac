"""Traceback of an unexpected exception, ours or a plug-in's, written to the run directory."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtrl.api.limits import reached_limit
from mtrl.errors import MtrlError, WorkerFailure
from mtrl.faults import PluginFault


class Bug(MtrlError):
    """An exception nobody expected."""


@contextmanager
def reported_in(run_dir: Path) -> Iterator[None]:
    """Writes the traceback of an unexpected exception to a file of the run directory, if there is one.

    That of an environment stands below the first line of its WorkerFailure.
    """
    try:
        yield
    except PluginFault as fault:
        if (path := _write_traceback(run_dir)) is None:
            raise
        raise PluginFault(f"{fault} (traceback: {path})") from fault
    except WorkerFailure as failure:
        line, _, trace = str(failure).partition("\n")
        if not trace or failure.reported or (path := _write_traceback(run_dir)) is None:
            raise
        raise WorkerFailure(f"{line} (traceback: {path})") from failure
    except (MtrlError, BrokenPipeError):
        raise
    except Exception as error:
        if reached_limit(error) is not None:
            raise
        if (path := _write_traceback(run_dir)) is None:
            raise
        raise Bug(f"a bug of ours, the traceback is in {path}: {type(error).__name__}: {error}") from error


def _write_traceback(run_dir: Path) -> Path | None:
    """Writes that of the exception in hand; returns the file, or None if there is no run directory to write to."""
    path = run_dir / "diagnostics" / f"traceback-{time.strftime('%Y%m%d-%H%M%S')}.txt"
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(traceback.format_exc())
    except OSError:
        return None
    return path
