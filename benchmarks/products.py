"""Who multiplies matrices for a contestant that is not ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mtrl.matrix_products import SETTING


@contextmanager
def torchs_products() -> Iterator[None]:
    """Products by the library that torch chooses if nobody says anything: see `mtrl.matrix_products`."""
    before = SETTING.fp32_precision
    SETTING.fp32_precision = "none"
    try:
        yield
    finally:
        SETTING.fp32_precision = before
