"""The library that multiplies float32 matrices on the CPU: MKL, torch's default, or oneDNN."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

SETTING: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
"""Torch's setting; its `fp32_precision` is "none" by default."""

ONEDNN, DEFAULT = "oneDNN", "torch default"


def choose_matmul_backend() -> str:
    """Selects oneDNN for the whole process where it is faster than MKL and as exact; returns the backend's name.

    MKL, torch's default, has AVX-512 code for Intel processors only: on AMD processors oneDNN is up to twice as fast
    (`benchmarks.updates.sac`). Torch hands float32 matrices to oneDNN only where it is told that they may be rounded to
    bfloat16. oneDNN makes use of that on x86 processors with AMX and computes in float32 on all others, which is
    tested here. A setting that the user has made stays.

    For programs only, not for libraries: afterwards `torch.get_float32_matmul_precision` raises, as always when
    torch's two interfaces to matmul precision are mixed.
    """
    if SETTING.fp32_precision == "none" and _has_avx512_without_mkl_support():
        SETTING.fp32_precision = "bf16" if _onednn_is_exact() else "none"
    if SETTING.fp32_precision in ("none", "ieee"):
        return DEFAULT
    if SETTING.fp32_precision == "bf16" and _onednn_is_exact():
        return ONEDNN
    return f"{DEFAULT}, with rounding to {SETTING.fp32_precision} allowed"


@contextmanager
def default_matmul_backend() -> Iterator[None]:
    """Torch's default backend, as a context or a decorator.

    For shapes that hardly come again, as in per-task gradients of unequal shares: oneDNN compiles a kernel per shape,
    in 0.5 ms, and keeps some 0.2 MB of it.
    """
    before = SETTING.fp32_precision
    SETTING.fp32_precision = "none"
    try:
        yield
    finally:
        SETTING.fp32_precision = before


def _has_avx512_without_mkl_support() -> bool:
    processor: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not know
    return bool(processor.get("avx512_f")) and "AMD" in str(processor.get("cpu_name"))


@functools.cache
def _onednn_is_exact() -> bool:
    """Whether products of whole numbers that need 12 bits are what they should be: bfloat16 has 8, TF32 has 11."""
    # No sum of 400 of their products reaches 2^24, so float32 holds every one of them.
    wide = torch.arange(256 * 400).mul(2731).remainder(8191).sub(4095).view(256, 400).float()
    narrow = torch.arange(400 * 400).mul(7919).remainder(17).sub(8).view(400, 400).float()
    expected = wide.double() @ narrow.double()
    before = SETTING.fp32_precision
    SETTING.fp32_precision = "bf16"
    try:
        found = [wide @ narrow, (narrow.T @ wide.T).T, *torch.bmm(wide.expand(2, -1, -1), narrow.expand(2, -1, -1))]
    finally:
        SETTING.fp32_precision = before
    return all(torch.equal(own.double(), expected) for own in found)
