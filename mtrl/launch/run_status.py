"""How a run stands, read from its run directory alone."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mtrl.checkpoints.files import read_small_file
from mtrl.config.yaml_io import load_mapping
from mtrl.errors import BadInput
from mtrl.launch.table import Standing, read_standing
from mtrl.runs.run_directory import CONFIG, MAX_TEXT_BYTES, META, METRICS

Status = Literal["waiting", "running", "interrupted", "done", "failed"]


@dataclass(frozen=True)
class RunStatus:
    """A run that may be at work, or not be there yet."""

    status: Status  # waiting: nothing is there; interrupted: it can go on from its last checkpoint
    exit_code: int | None
    standing: Standing
    total_env_steps: int | None  # None: not known
    seconds: float | None  # since it wrote something last


def read_status(run_dir: Path) -> RunStatus:
    """Raises nothing: what cannot be read is not known."""
    meta, config, standing = _read(run_dir / META), _read(run_dir / CONFIG), read_standing(run_dir)
    total = config.get("total_env_steps")
    total = total if type(total) is int and total > 0 else None
    code = meta.get("exit_code")
    code = code if type(code) is int else None
    status: Status = "waiting"
    if meta:
        known = meta.get("status")
        if known == "failed":
            status = "failed"
        elif known == "done":
            complete = code == 0 and (total is None or standing.env_steps >= total)
            status = "done" if complete else "interrupted"
        else:
            status = "running" if _may_live(meta) else "interrupted"
    return RunStatus(status, code, standing, total, _seconds_since_write(run_dir))


def run_directories(folder: Path) -> Iterator[Path]:
    """The run directories at or below a folder, in the order of their names."""
    for path, inside, files in os.walk(folder):
        if META in files:
            inside.clear()
            yield Path(path)
        inside.sort()


def _may_live(meta: Mapping[str, Any]) -> bool:
    """Whether the trainer may be alive; that of another machine always may."""
    pid, host = meta.get("pid"), meta.get("host")
    if type(pid) is not int or not 0 < pid < 2**31 or host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError, IndexError):  # elsewhere than on Linux
        # Dead, but not taken note of by its parent, as in a container without an init process.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True


def _read(path: Path) -> dict[str, Any]:
    """The mapping in a file of a run, empty where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, BadInput):
        text = read_small_file(path, MAX_TEXT_BYTES).decode()
        content = json.loads(text) if path.name == META else load_mapping(text, path.name)
        if isinstance(content, dict):
            return content
    return {}


def _seconds_since_write(run_dir: Path) -> float | None:
    times = []
    for name in (METRICS, META):
        with contextlib.suppress(OSError):
            times.append(os.stat(run_dir / name).st_mtime)
    return max(0.0, time.time() - max(times)) if times else None
