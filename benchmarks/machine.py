"""Facts about the machine for results files: enough to compare, no names."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from mtrl.optim.cpu import available_cores, keep_freed_memory
from mtrl.optim.matmul_backend import choose_matmul_backend


def prepare_process(torch_threads: int) -> None:
    """What `mtrl` does before it learns."""
    torch.set_num_threads(torch_threads)
    keep_freed_memory()
    choose_matmul_backend()


def machine_facts() -> dict[str, Any]:
    """Processor model, cores that this process may use, memory in GiB, and who multiplies."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": available_cores(),
        "memory_gib": round(memory / 2**30, 1),
        "matrix_products": choose_matmul_backend(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def processor_ticks() -> tuple[int, int]:
    """Ticks of all processors since the start and, of these, the ones that the host gave to others; zeros off Linux."""
    try:
        ticks = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return 0, 0
    return sum(ticks), ticks[7]


def stolen_share(before: tuple[int, int], after: tuple[int, int]) -> float:
    """The share of processor time that the host took away in between, of what a virtual machine was to get."""
    return (after[1] - before[1]) / max(1, after[0] - before[0])
