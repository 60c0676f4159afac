"""Torch's defaults for new tensors, which a caller may have changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Torch's own defaults, as a context or a decorator; the caller's are put back.

    They are the dtype and device of new tensors (`set_default_dtype`, `set_default_device` or `with torch.device`) and
    whether gradients are recorded (`no_grad`, `inference_mode`).
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            if torch.get_default_device().type != "cpu":  # a device context makes every call of torch slower
                stack.enter_context(torch.device("cpu"))
            yield
    finally:
        torch.set_default_dtype(dtype)
