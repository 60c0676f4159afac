"""`relations.json`: the affinity of a suite's tasks by one measure. Shapes: M tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.checkpoints.files import printable, read_small_file, replace_file, storage_faults
from mtrl.checkpoints.json_text import MAX_BYTES, parse_json
from mtrl.errors import BadInput

FILE = "relations.json"
FOLDER = "relations"
"""Of a run directory, with a folder per measure."""


@dataclass(frozen=True)
class Relations:
    """An affinity (M, M) of tasks, where it is from, and what was derived from it."""

    measure: str
    suite: str
    tasks: Sequence[str]
    affinity: np.ndarray  # (M, M), higher is closer; row i, column j: what task i does for task j; NaN unknown
    runs: Sequence[Mapping[str, Any]]  # path, seed and env steps of each
    settings: Mapping[str, Any] = field(default_factory=dict)
    spread: np.ndarray | None = None  # (M, M) standard deviation over several runs
    groups: Sequence[Sequence[str]] | None = None
    networks: Sequence[Mapping[str, Sequence[str]]] | None = None  # what each is trained on and serves
    transfer: Sequence[Mapping[str, Any]] | None = None  # per task, several tasks against one

    def write(self, folder: Path) -> Path:
        """Writes `relations.json` in a folder, which is made, and returns its path. Raises StorageFailure."""
        document = {name: _plain(value) for name, value in asdict(self).items() if value is not None}
        path = folder / FILE
        with storage_faults(path):
            folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
        return path


def read_relations(path: Path) -> Relations:
    """Reads a file that `write` has written. Raises BadInput."""
    shown = printable(str(path), 160)
    try:
        document = parse_json(read_small_file(path, MAX_BYTES))
    except OSError as error:
        raise BadInput(f"{shown}: {error.strerror}") from error
    try:
        tasks = [str(task) for task in document["tasks"]]
        affinity = _square(document["affinity"], len(tasks))
        spread = _square(document["spread"], len(tasks)) if "spread" in document else None
        kept = {name: document[name] for name in ("groups", "networks", "transfer") if name in document}
        about = {name: document[name] for name in ("measure", "suite", "runs", "settings")}
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{shown} is no relations.json of this version: {error}") from error
    return Relations(tasks=tasks, affinity=affinity, spread=spread, **about, **kept)


def relations_of(run_dir: Path) -> Iterator[Relations]:
    """What `mtrl relations` has left in a run directory, by the name of the measure. Raises BadInput."""
    for path in sorted([run_dir / FILE, *run_dir.glob(f"{FOLDER}/*/{FILE}")]):
        if path.is_file():
            yield read_relations(path)


def _square(rows: Any, size: int) -> np.ndarray:
    """(M, M) of nested lists; null is NaN. Raises ValueError, TypeError."""
    values = np.array(rows, np.float64)
    if values.shape != (size, size):
        raise ValueError(f"a matrix of shape {values.shape} for {size} tasks")
    return values


def _plain(value: Any) -> Any:
    """JSON for what the file holds; what is not finite becomes null."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {name: _plain(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
