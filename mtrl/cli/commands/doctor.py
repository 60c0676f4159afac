"""`mtrl doctor`: what is installed on this machine, and what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from rich.text import Text

from mtrl.cli.commands.listing import titled_table
from mtrl.cli.flags import FlagParser
from mtrl.env.suite import suites
from mtrl.errors import MtrlError
from mtrl.loggers.console import make_console
from mtrl.optim.cpu import available_cores
from mtrl.registry import PLUGIN_GROUP, trust_module

_GIBIBYTE = 2**30
_DISTRIBUTION = "mtrl-suite"


def main(arguments: Sequence[str]) -> int:
    """Prints the machine, the plug-ins, the suites and every dependency with version and licence; returns 0.

    Raises BadInput for a wrong flag; whatever is broken here is part of the answer.
    """
    parser = FlagParser("doctor", "Say what is installed here, and what is missing.")
    parser.add_plugin_flag()
    modules = parser.parse(arguments).get("plugin", [])
    _print("machine", ("what", "found"), _machine())
    _print("plug-ins", ("name", "module", "state"), [*_installed_plugins(), *_named_plugins(modules)])
    _print("suites", ("suite", "what", "found"), _suites())
    _print("dependencies", ("name", "version", "licence", "note"), _dependencies())
    return 0


def _print(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = titled_table(title)
    for position, column in enumerate(columns):
        table.add_column(column, style="" if position else "cyan", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    make_console().print(table)


def _machine() -> Iterator[tuple[str, str]]:
    import torch

    from mtrl.optim.matmul_backend import choose_matmul_backend

    answers: dict[str, Callable[[], str]] = {
        "python": lambda: f"{platform.python_version()} ({sys.executable})",
        "system": lambda: f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": lambda: f"{available_cores()} usable of {os.cpu_count()}",
        "memory": _memory,
        "torch threads": lambda: str(torch.get_num_threads()),
        "cuda": lambda: torch.cuda.get_device_name() if torch.cuda.is_available() else "none; networks run on the CPU",
        "matmul backend": lambda: f"{choose_matmul_backend()} (of float32, on the processor)",
        "bfloat16": lambda: _bfloat16(
            torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        ),
        "free disk here": lambda: f"{shutil.disk_usage('.').free / _GIBIBYTE:.1f} GiB",
    }
    for what, answer in answers.items():
        try:
            yield what, answer()
        except Exception as error:  # not every system can tell
            yield what, f"unknown ({type(error).__name__}: {error})"


def _bfloat16(on_the_gpu: bool) -> str:
    if on_the_gpu:
        return "in hardware"
    flags = set(re.findall(r"\b(?:avx512_bf16|amx_bf16|bf16)\b", Path("/proc/cpuinfo").read_text()))
    if flags:
        return f"in hardware ({', '.join(sorted(flags))})"
    return "not in hardware: --precision bfloat16 would be slower"


def _memory() -> str:
    page = os.sysconf("SC_PAGE_SIZE") / _GIBIBYTE
    total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    return f"{total:.1f} GiB, {free:.1f} GiB of it unused"


def _suites() -> Iterator[tuple[str, str, str]]:
    """What the suites say of themselves."""
    for name, cls in suites.items():
        try:
            yield from ((name, what, found) for what, found in cls.diagnose())
        except Exception as error:
            yield name, "diagnosis", f"broken: {type(error).__name__}: {error}"


def _dependencies() -> Iterator[tuple[str, str, str, str]]:
    """Every requirement of the distribution, extras included, and of the suites, as this environment has it."""
    try:
        requirements = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
        yield _DISTRIBUTION, "not installed", "MIT", "pip install -e . makes its plug-ins known"
    notes = {}
    for requirement in requirements:
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        notes[match[0] if match else requirement] = f"optional: {extra[1]}" if extra else ""
    for suite, cls in suites.items():
        for package in cls.packages:
            notes[package] = "; ".join(filter(None, [notes.get(package, ""), f"for suite {suite}"]))
    for package, note in notes.items():
        try:
            metadata = importlib.metadata.metadata(package)
            yield package, metadata["Version"], _licence(metadata), note
        except importlib.metadata.PackageNotFoundError:
            yield package, "missing", "", note or "required"


def _licence(metadata: importlib.metadata.PackageMetadata) -> str:
    """The licence a package declares, in one of the three places for it."""
    fields = metadata.json
    declared = str(fields.get("license_expression") or fields.get("license") or "").strip().partition("\n")[0]
    classified = [item.rpartition(" :: ")[2] for item in fields.get("classifier", []) if item.startswith("License")]
    return declared[:40] or ", ".join(classified) or "not declared"


def _installed_plugins() -> Iterator[tuple[str, str, str]]:
    for entry in sorted(importlib.metadata.entry_points(group=PLUGIN_GROUP), key=lambda entry: entry.name):
        try:
            entry.load()()
            yield entry.name, entry.value, f"works ({sys.modules[entry.module].__file__})"
        except Exception as error:
            yield entry.name, entry.value, f"broken: {type(error).__name__}: {error}"


def _named_plugins(modules: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for module in modules:
        try:
            trust_module(module)
            yield "--plugin", module, f"works ({getattr(sys.modules[module], '__file__', None)})"
        except MtrlError as error:
            yield "--plugin", module, f"broken: {error}"
