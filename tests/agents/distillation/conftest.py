"""Runs that teach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtrl.training import run
from tests.training.tiny_runs import tiny_config

MakeRun = Callable[..., str]


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Trains a small run, once for equal settings, and gives its directory."""
    made: dict[str, str] = {}

    def make(suite: str, **changes: Any) -> str:
        settings = {
            "total_env_steps": 160,
            "log_interval": 1600,
            "eval_interval": 0,
            "final_eval_episodes_per_task": 0,
            **changes,
        }
        key = repr((suite, settings))
        if key not in made:
            folder = tmp_path_factory.mktemp("runs") / "run"
            assert run.train(tiny_config(suite, **settings), folder) == 0
            made[key] = str(folder)
        return made[key]

    return make


PPO: dict[str, Any] = {"name": "ppo", "rollout_steps": 10, "epochs": 1, "minibatches": 1}
LEFT, RIGHT = "goal-0.8+0.0", "goal+0.8+0.0"
"""The two tasks of `point-mass-conflict`."""


def student(*teachers: str, **settings: Any) -> dict[str, Any]:
    """The agent of a run that learns from teachers."""
    return {"name": "distill", "teachers": list(teachers), "batch_size": 32, **settings}


def delete_checkpoints(folder: str) -> None:
    for path in Path(folder, "checkpoints").rglob("*"):
        if path.is_file():
            path.unlink()
