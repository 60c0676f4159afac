"""Precision of matrix products in networks.

`bfloat16` is mixed precision (Kalamkar et al., 2019, arXiv:1905.12322): weights, gradients and the optimiser's moments
stay float32; inside losses and acting, `torch.autocast` rounds the operands of matrix products and convolutions to
bfloat16, which has float32's range and 8 bits of precision, and accumulates in float32. Output layers and
normalisations stay float32 (`mtrl.networks.layers.float32_island`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from mtrl.types import Precision


def autocast(precision: Precision, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Makes contexts for forward passes in `precision` on `device`."""
    if precision == "float32":
        return nullcontext
    return partial(torch.autocast, device.type, torch.bfloat16)
