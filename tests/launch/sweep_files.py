"""Sweeps of runs that take a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtrl.config.yaml_io import dump_mapping

TINY: dict[str, Any] = {
    "suite": "point-mass",
    "architecture": "mlp",
    "architecture.width": 16,
    "architecture.depth": 1,
    "agent.batch-size": 32,
    "agent.learning_starts": 80,
    "num-envs": 8,
    "num-workers": 0,
    "torch-threads": 1,
    "total-env-steps": 160,
    "log-interval": 80,
    "checkpoint-interval": 80,
    "eval-interval": 400,
    "eval-episodes-per-task": 2,
    "final-eval-episodes-per-task": 2,
}


def write_sweep(folder: Path, *, flags: dict[str, Any] | None = None, **keys: Any) -> Path:
    """A file beside the folder `runs` of its sweep; flags are added to the tiny ones, None takes one away."""
    merged = {key: value for key, value in {**TINY, **(flags or {})}.items() if value is not None}
    path = folder / "sweep.yaml"
    path.write_text(dump_mapping({"folder": str(folder / "runs"), "flags": merged, **keys}))
    return path
