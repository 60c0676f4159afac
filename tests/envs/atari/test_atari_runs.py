"""Discrete SAC trains on Atari games from pixels, and a killed run goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl.checkpoints.store import CheckpointStore
from mtrl.config.schema import RunConfig
from mtrl.training import run
from tests.training.tiny_runs import differences, final_state, in_child, log_rows, tiny_config


def config(total_env_steps: int = 240, **suite: Any) -> RunConfig:
    return tiny_config(
        {"name": "atari:pong,breakout", "max_episode_frames": 80, **suite},
        encoder={"name": "nature", "features": 16},
        agent={"batch_size": 8, "learning_starts": 60, "buffer_size": 6000},
        num_envs=3,
        total_env_steps=total_env_steps,
        log_interval=30,
        eval_interval=0,
        final_eval_episodes_per_task=0,
        checkpoint_interval=60,
    )


def test_a_killed_run_begins_new_episodes_says_so_and_is_otherwise_exact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed, again = tmp_path / "killed", tmp_path / "again"
    settings = config(150)
    assert in_child(lambda: run.train(settings, killed), at_progress=47) < 0
    checkpoint = final_state(killed)
    assert checkpoint["step"] == 120
    shutil.copytree(killed, again)
    for run_dir in (killed, again):
        assert run.resume(run_dir, {}) == 0
        said = capsys.readouterr().out
        assert "cannot replay the running episodes: resumed at step 120 with new ones" in said
    first, second = final_state(killed), final_state(again)
    assert differences(first, second) == []
    assert log_rows(killed) == log_rows(again)
    # The last transitions before the kill are the last ones of their episodes, with their true successors.
    newest = np.asarray(checkpoint["state"]["buffer"]["newest"])
    row = first["rows"]["39"]
    assert (row["terminated"] | row["truncated"]).all()
    for slot in range(3):
        if not (checkpoint["rows"]["39"]["terminated"] | checkpoint["rows"]["39"]["truncated"])[slot]:
            assert np.array_equal(row["finals"][str(slot)], newest[slot])
    assert all(differences(checkpoint["rows"][str(before)], first["rows"][str(before)]) == [] for before in range(39))


@pytest.mark.slow
def test_with_exact_resume_a_killed_run_ends_in_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = config(90, exact_resume=True)
    assert run.train(settings, whole) == 0
    assert in_child(lambda: run.train(settings, killed), at_progress=26) < 0
    assert run.resume(killed, {}) == 0
    assert "episodes" not in capsys.readouterr().out
    assert differences(final_state(whole), final_state(killed)) == []
    assert log_rows(whole) == log_rows(killed)


def test_what_is_learnt_reaches_the_encoder_and_every_head(tmp_path: Path) -> None:
    run.train(config(120), tmp_path / "run")
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    before, after = (store.load(step).state["agent"]["modules"] for step in (60, 120))
    for name, value in before.items():
        if "encoder" in name and "target" not in name:
            assert not torch.equal(torch.as_tensor(value), torch.as_tensor(after[name])), name
    assert any(name.startswith("target_critics.encoder.") for name in before)
    rows = log_rows(tmp_path / "run")[0]
    losses = [value for row in rows for name, value in row.items() if name.startswith("losses/critic_loss/")]
    assert losses
    assert np.isfinite(losses).all()
    # The policy draws legal actions alone: breakout has four, pong six.
    stored = final_state(tmp_path / "run")["rows"].values()
    actions = np.array([np.asarray(row["action"]) for row in stored])
    tasks = np.array([np.asarray(row["task_ids"]) for row in stored])
    assert set(actions[tasks == 0].tolist()) <= {0, 1, 3, 4, 11, 12}
    assert set(actions[tasks == 1].tolist()) <= {0, 1, 3, 4}
