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
from mtrl.runs.logs import EVALUATION_KIND
from mtrl.runs.run_directory import CONFIG, MAX_TEXT_BYTES, META, METRICS

_TAIL_BYTES = 2**19
"""Of metrics.jsonl that are read: the last rows."""

Status = Literal["waiting", "running", "interrupted", "done", "failed"]


@dataclass(frozen=True)
class Standing:
    """How far a run is, None where it has not said so yet."""

    env_steps: int = 0
    env_steps_per_second: float | None = None
    training: float | None = None  # mean score of the last training episodes
    evaluation: float | None = None  # mean score of the last evaluation
    score: str = "success"  # or return

    def shown(self, value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}" if self.score == "success" else f"{value:,.1f}"


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
        elif known in ("done", "interrupted"):
            complete = known == "done" and code == 0 and (total is None or standing.env_steps >= total)
            status = "done" if complete else "interrupted"
        else:
            status = "running" if _may_live(meta) else "interrupted"
    return RunStatus(status, code, standing, total, _seconds_since_write(run_dir))


def read_standing(run_dir: Path) -> Standing:
    """Of a run that may be writing, or not be there yet."""
    training, evaluation = _last_rows(run_dir / METRICS)
    if training is None and evaluation is None:
        return Standing()
    try:
        score = json.loads((run_dir / META).read_text()).get("score")
    except (OSError, ValueError, AttributeError):
        score = "success"
    name = "mean_success_rate" if score == "success" else "mean_return"
    return Standing(
        env_steps=max(row["env_steps"] for row in (training, evaluation) if row is not None),
        env_steps_per_second=(training or {}).get("time/env_steps_per_second"),
        training=(training or {}).get(f"train/{name}"),
        evaluation=(evaluation or {}).get(f"eval/{name}"),
        score=score,
    )


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


def _last_rows(path: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The last row of a log interval and of an evaluation, from the end of the file."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return None, None
    training = evaluation = None
    for line in reversed(lines):
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:  # the first line may be cut
            continue
        if not isinstance(row, dict) or type(row.get("env_steps")) is not int:
            continue
        if EVALUATION_KIND in row:
            evaluation = evaluation or row
        elif "train/num_updates" in row:  # not in those of gradient conflict
            training = training or row
        if training and evaluation:
            break
    return training, evaluation


def _seconds_since_write(run_dir: Path) -> float | None:
    times = []
    for name in (METRICS, META):
        with contextlib.suppress(OSError):
            times.append(os.stat(run_dir / name).st_mtime)
    return max(0.0, time.time() - max(times)) if times else None
