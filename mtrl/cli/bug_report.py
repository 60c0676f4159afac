"""Traceback of an unexpected exception, written to the run directory."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtrl.errors import MtrlError


class Bug(MtrlError):
    """An exception nobody expected."""


@contextmanager
def reported_in(run_dir: Path) -> Iterator[None]:
    """Writes the traceback of an unexpected exception to a file of the run directory, if there is one."""
    try:
        yield
    except (MtrlError, BrokenPipeError):
        raise
    except Exception as error:
        path = run_dir / "diagnostics" / f"traceback-{time.strftime('%Y%m%d-%H%M%S')}.txt"
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_text(traceback.format_exc())
        except OSError:
            raise error from None
        raise Bug(f"a bug of ours, the traceback is in {path}: {type(error).__name__}: {error}") from error
