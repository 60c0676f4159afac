"""A process that is left as it was: the caller is a notebook or a program with settings of its own."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def process_left_alone() -> Iterator[None]:
    """Puts back what training changes in a process. Also a decorator.

    That is the number of torch threads, the matmul backend, filters of warnings, environment variables and how stdout
    encodes. Torch's defaults (`torch_defaults`) and signal handlers (`Interruption`) are put back where they are set.
    """
    import torch

    from mtrl.optim.matmul_backend import SETTING

    environment, threads, precision = dict(os.environ), torch.get_num_threads(), SETTING.fp32_precision
    stdout = sys.stdout
    errors = stdout.errors if isinstance(stdout, io.TextIOWrapper) else None
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        torch.set_num_threads(threads)
        SETTING.fp32_precision = precision
        if isinstance(stdout, io.TextIOWrapper) and not stdout.closed:
            stdout.reconfigure(errors=errors)
