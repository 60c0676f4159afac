"""`mtrl doctor`: what is installed on this machine, and what is missing."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.table import Table
from rich.text import Text

from mtrl.cli.flags import parse_flags
from mtrl.errors import MtrlError
from mtrl.loggers.console import make_console
from mtrl.registry import PLUGIN_GROUP, trust_module

_GIBIBYTE = 2**30
_LICENCE_NOTES = {"ale-py": "copyleft: a program that ships it comes under the GPL; imported for Atari suites only"}
_INDIRECT = ("mujoco",)
"""What results depend on, required by a requirement."""
_RENDERERS = {"EGL": "egl", "OSMesa": "osmesa", "GL": "glfw, with a display"}


@dataclass(frozen=True, kw_only=True)
class DoctorFlags:
    """Say what is installed here, and what is missing."""

    plugin: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="MODULE", help="to import")
    ] = ()


def parse_doctor(arguments: Sequence[str]) -> DoctorFlags:
    """The request on the command line. Prints the help and raises SystemExit for `--help`. Raises BadInput."""
    return parse_flags(DoctorFlags, arguments, command="doctor")


def print_diagnosis(plugins: Sequence[str]) -> None:
    """Prints the machine, every dependency with version and licence, and every plug-in."""
    console = make_console()
    console.print(_table("machine", ("what", "found"), _machine()))
    console.print(_table("dependencies", ("name", "version", "licence", "note"), _dependencies()))
    console.print(_table("plug-ins", ("name", "module", "state"), [*_installed_plugins(), *_named_plugins(plugins)]))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]] | Iterator[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, style="cyan" if not position else "", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _machine() -> Iterator[tuple[str, str]]:
    import torch

    from mtrl.optim.matmul_backend import choose_matmul_backend

    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "system", f"{platform.system()} {platform.release()} {platform.machine()}"
    yield "cores", f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}"
    yield "memory", _memory()
    yield "torch threads", str(torch.get_num_threads())
    yield "cuda", torch.cuda.get_device_name() if torch.cuda.is_available() else "none; networks run on the CPU"
    yield "matrix products", f"{choose_matmul_backend()} (of float32, on the processor)"
    yield "bfloat16", _bfloat16(torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))
    yield "rendering", _rendering()
    yield "cache", _cache()
    yield "free disk here", f"{shutil.disk_usage(Path.cwd()).free / _GIBIBYTE:.1f} GiB"


def _bfloat16(on_the_gpu: bool) -> str:
    if on_the_gpu:
        return "in hardware"
    try:
        flags = set(re.findall(r"\b(?:avx512_bf16|amx_bf16|bf16)\b", Path("/proc/cpuinfo").read_text()))
    except OSError:
        return "unknown: this system does not say what its processor has"
    if flags:
        return f"in hardware ({', '.join(sorted(flags))})"
    return "not in hardware: --precision bfloat16 would be slower"


def _memory() -> str:
    page = os.sysconf("SC_PAGE_SIZE") / _GIBIBYTE
    total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    return f"{total:.1f} GiB, {free:.1f} GiB of it unused"


def _rendering() -> str:
    """Which of MuJoCo's backends have a library here; training needs none."""
    found = [backend for library, backend in _RENDERERS.items() if ctypes.util.find_library(library)]
    chosen = os.environ.get("MUJOCO_GL", "not set")
    return f"{', '.join(found) or 'no backend (videos need one)'}; MUJOCO_GL {chosen}"


def _cache() -> str:
    base = os.environ.get("MTRL_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtrl"
    folder = Path(base) / "goals"
    return f"{folder} ({len(list(folder.iterdir()))} files)" if folder.is_dir() else f"{folder} (empty so far)"


def _dependencies() -> Iterator[tuple[str, str, str, str]]:
    """Every requirement of the distribution, extras included, as this environment has it."""
    try:
        requirements = importlib.metadata.requires("mtrl-suite") or []
    except importlib.metadata.PackageNotFoundError:
        yield "mtrl-suite", "not installed", "MIT", "pip install -e . makes its plug-ins known"
        return
    for requirement in [*requirements, *_INDIRECT]:
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        name = match[0] if match else requirement
        extra = re.search(r"extra\s*==\s*['\"](\w+)['\"]", requirement)
        optional = f"optional: {extra[1]}" if extra else ""
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, "missing", "", optional or "required"
            continue
        notes = "; ".join(filter(None, (optional, _LICENCE_NOTES.get(name, ""))))
        yield name, metadata["Version"], _licence(metadata), notes


def _licence(metadata: importlib.metadata.PackageMetadata) -> str:
    """The licence a package declares, in one of the three places for it."""
    fields = metadata.json
    declared = str(fields.get("license_expression") or fields.get("license") or "").strip().partition("\n")[0]
    classified = [item.rpartition(" :: ")[2] for item in fields.get("classifier", []) if item.startswith("License")]
    return declared[:40] or ", ".join(classified) or "not declared"


def _installed_plugins() -> Iterator[tuple[str, str, str]]:
    for entry in sorted(importlib.metadata.entry_points(group=PLUGIN_GROUP), key=lambda entry: entry.name):
        try:
            hook = entry.load()
            hook()
            yield entry.name, entry.value, f"works ({sys.modules[entry.module].__file__})"
        except Exception as error:  # a diagnosis reports what is broken
            yield entry.name, entry.value, f"broken: {type(error).__name__}: {error}"


def _named_plugins(modules: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for module in modules:
        try:
            trust_module(module)
            yield "--plugin", module, f"works ({getattr(sys.modules[module], '__file__', None)})"
        except MtrlError as error:
            yield "--plugin", module, f"broken: {error}"
