"""A child of the test process, with all that is imported, which may die or be limited without harm."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

import torch


def in_child(action: Callable[[], None]) -> tuple[int, str]:
    """Runs `action` in a forked child; its wait status and what it wrote to descriptor 1."""
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)  # a forked process has none of its parent's threads
            os.dup2(writer, 1)
            os.close(writer)
            action()
            status = 0
        except BaseException:
            os.write(1, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as output:
        text = output.read()
    return os.waitpid(child, 0)[1], text
