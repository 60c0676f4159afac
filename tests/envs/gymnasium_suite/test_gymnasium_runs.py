"""Training on Gymnasium suites: exact resume, pixels, and learning at the preset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_environments import register_toy

from mtrl.checkpoints.store import CheckpointStore
from mtrl.config.schema import resolve_config
from mtrl.runs.run_directory import RunDirectory
from mtrl.training import run
from mtrl.training.evaluate import evaluate
from tests.training.tiny_runs import differences, final_state, in_child, log_rows, tiny_config

FEW = {"num_envs": 3, "log_interval": 30, "eval_interval": 0, "final_eval_episodes_per_task": 0}


def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny_config(
        "gym:CartPole-v1,Acrobot-v1",
        agent={"batch_size": 16, "learning_starts": 60},
        total_env_steps=240,
        checkpoint_interval=60,
        **FEW,
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert in_child(lambda: run.train(settings, whole)) == 0
    assert in_child(lambda: run.train(settings, killed), at_progress=50) < 0
    assert np.asarray(final_state(killed)["state"]["envs"]["lengths"]).max() > 20  # running episodes to be replayed
    assert run.resume(killed, {}) == 0
    assert "episodes" not in capsys.readouterr().out
    assert differences(final_state(whole), final_state(killed)) == []
    assert log_rows(whole) == log_rows(killed)


def test_environments_that_remember_begin_new_episodes_and_the_run_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny_config(
        f"gym:{register_toy(limit=50, remembers=True)}",
        agent={"batch_size": 8, "learning_starts": 30},
        total_env_steps=60,
        checkpoint_interval=30,
        **FEW,
    )
    assert run.train(settings, tmp_path / "run") == 0
    assert run.resume(tmp_path / "run", {"total_env_steps": 90}) == 0
    assert "cannot replay the running episodes: resumed at step 60 with new ones" in capsys.readouterr().out


def test_another_seed_evaluates_other_episodes(tmp_path: Path) -> None:
    settings = tiny_config("gym:CartPole-v1", total_env_steps=60, checkpoint_interval=60, **FEW)
    assert run.train(settings, tmp_path / "run") == 0
    again, first, other = (
        evaluate(tmp_path / "run", episodes_per_task=20, seed=seed).returns.tolist() for seed in (None, 1, 2)
    )
    assert again == first != other


def test_pixels_are_learnt_from_through_an_encoder(tmp_path: Path) -> None:
    settings = tiny_config(
        f"gym:a={register_toy(observation='image')},b={register_toy(observation='image', action='from one')}",
        encoder={"name": "nature", "features": 16},
        agent={"batch_size": 8, "learning_starts": 30},
        total_env_steps=60,
        checkpoint_interval=60,
        **FEW,
    )
    assert run.train(settings, tmp_path / "run") == 0
    assert CheckpointStore(tmp_path / "run" / "checkpoints").load("latest").step == 60


@pytest.mark.slow
def test_ppo_learns_to_balance_at_its_preset(tmp_path: Path) -> None:
    settings = resolve_config(
        {
            "suite": "gym:CartPole-v1",
            "agent": "ppo",
            "total_env_steps": 14_336,
            "num_workers": 0,
            "eval_interval": 0,
            "final_eval_episodes_per_task": 5,
        }
    )
    assert run.train(settings, tmp_path / "run") == 0
    (row,) = RunDirectory.open(tmp_path / "run").evaluations.rows()
    assert row.mean_return > 150  # random actions: 22
