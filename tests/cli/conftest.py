"""An empty folder, the plug-ins of this project, and nothing trusted yet, for every test of a command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agents
import envs
import mtrl.training.evaluate
import mtrl.training.run
from mtrl import registry
from mtrl.config.schema import dump_yaml, resolve_config
from mtrl.env.suite import suites


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agents.register()
    envs.register()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_trusted_modules", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("COLUMNS", "100")
    for suite in suites.classes():  # a server of workers would outlive the test
        monkeypatch.setattr(suite, "warm_up", classmethod(lambda cls: None))


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What training would have been asked to do: positional and named arguments by verb."""
    seen: dict[str, Any] = {}

    def note(verb: str) -> Callable[..., int]:
        def noted(*positional: Any, **named: Any) -> int:
            seen[verb] = (positional, named)
            return 0

        return noted

    for module, verb in (
        (mtrl.training.run, "train"),
        (mtrl.training.run, "resume"),
        (mtrl.training.evaluate, "evaluate"),
    ):
        monkeypatch.setattr(module, verb, note(verb))
    return seen


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory with a configuration and nothing else."""
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_yaml(resolve_config({"suite": "point-mass", "seed": 5})))
    return folder
