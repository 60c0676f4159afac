"""Sizes that do not fit the memory are refused before anything is written."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

import mtrl
from mtrl.errors import BadInput
from mtrl.training import run
from tests.training.tiny_runs import LAST_WORDS, in_child, tiny_config

SIZES: dict[str, tuple[dict[str, Any], str]] = {
    "buffer": (
        {"agent": {"buffer_size": 10**12}, "total_env_steps": 10**12},
        "a buffer of 125,000,000,000 vector steps of 8 slots needs 28,000,000,000,224 bytes",
    ),
    "rollout": (
        {"agent": {"name": "ppo", "rollout_steps": 10**10}},
        "a buffer of 10,000,000,000 vector steps of 8 slots needs",
    ),
    "slots": ({"num_envs": 10**10}, "10,000,000,000 slots needs"),
    "width": ({"architecture": {"width": 10**9}}, "a network with a tensor of shape (1000000000, 6) needs 24,"),
    "width beyond counting": ({"architecture": {"width": 10**30}}, "the networks do not fit the memory"),
}


def train(folder: Path, changes: dict[str, Any]) -> int:
    # So that a size which is not refused costs this process its life, and no other.
    resource.setrlimit(resource.RLIMIT_AS, (2**34, resource.RLIM_INFINITY))
    return run.train(tiny_config(**changes), folder)


@pytest.mark.parametrize("what", SIZES)
def test_a_size_that_does_not_fit_is_refused_before_anything_is_written(what: str, tmp_path: Path) -> None:
    changes, said = SIZES[what]
    assert in_child(lambda: train(tmp_path / "run", changes)) == 2
    assert said in LAST_WORDS.read_text()
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_fit_is_named(tmp_path: Path) -> None:
    changes = {"agent": {"batch_size": 10**12}}
    assert in_child(lambda: train(tmp_path / "run", changes)) == 2
    assert "the sizes of this run do not fit the memory: Unable to allocate" in LAST_WORDS.read_text()


def test_an_edited_run_is_refused_when_it_is_resumed_or_loaded_and_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = tiny_config(total_env_steps=400, eval_interval=200, final_eval_episodes_per_task=0)
    assert in_child(lambda: run.train(config, folder)) == 0
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("width: 16", "width: 1000000000"))

    def files() -> dict[Path, bytes]:
        found = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("lock", "meta.json"))
        return {path: path.read_bytes() for path in found}

    before = files()

    def resume() -> int:
        resource.setrlimit(resource.RLIMIT_AS, (2**34, resource.RLIM_INFINITY))
        return run.resume(folder, {"total_env_steps": 800})

    assert in_child(resume) == 2
    assert "a network with a tensor of shape" in LAST_WORDS.read_text()
    after = files()
    assert [path.name for path in after if after[path] != before.get(path)] == []
    with pytest.raises(BadInput, match="a network with a tensor of shape"):
        mtrl.load(str(folder))
