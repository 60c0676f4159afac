"""Memory: how much there is, and one line in place of a traceback, or of a kill, where something does not fit."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mtrl.errors import BadInput
from mtrl.optim.cpu import available_memory

_RESERVE = 2**28
"""Bytes that networks leave to everything else."""
_LOOK_AFTER = 2**26, 4096
"""Bytes and tensors between two looks at the memory that is left."""

_REFUSAL = re.compile("allocate memory|out of memory", re.IGNORECASE)
"""What torch says in errors of a more general class."""


def require_memory(num_bytes: int, what: str) -> None:
    """Raises BadInput where `what` needs more bytes than there are."""
    available = available_memory()
    if available is not None and num_bytes > available:
        raise BadInput(f"{what} needs {num_bytes:,} bytes of memory, {available:,} are there; choose a smaller size")


@contextmanager
def refusals_named(what: str, *, overflow: bool = False) -> Iterator[None]:
    """Raises BadInput where the system or the GPU refuses memory for `what`.

    overflow: also where a size is too large to be counted.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OverflowError, TypeError) as error:
        text = str(error).partition("\n")[0]
        counted = not (isinstance(error, OverflowError) or "overflow" in text.lower())
        refused = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _REFUSAL.search(text)
        if not refused and (counted or not overflow):
            raise
        available = available_memory()
        there = "" if available is None else f"; {available:,} bytes are there"
        raise BadInput(f"{what} do not fit the memory: {text or type(error).__name__}{there}") from error


class RoomForNetworks(TorchDispatchMode):
    """A context in which new tensors that the memory left cannot hold are refused. Raises BadInput.

    The system hands out memory that it does not have, and kills the process once it is written to.
    """

    def __init__(self) -> None:
        super().__init__()
        self._unseen = [0, 0]  # bytes and tensors since the last look

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.empty.memory_format:
            num_bytes = 4 * math.prod(args[0])
            self._unseen = [self._unseen[0] + num_bytes, self._unseen[1] + 1]
            if any(count >= limit for count, limit in zip(self._unseen, _LOOK_AFTER, strict=True)):
                self._unseen = [0, 0]
                require_memory(num_bytes + _RESERVE, f"a network with a tensor of shape {tuple(args[0])}")
        return func(*args, **(kwargs or {}))
