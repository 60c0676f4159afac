"""From the training tasks of ML10 to one of its test tasks, as docs/evaluation.md says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtrl.cli.main import main

AGENT = "--agent ppo --agent.rollout-steps 10 --agent.minibatches 1 --agent.epochs 1"
NETWORK = "--architecture mlp --architecture.task-input none --architecture.width 8"
SHORT = "--num-envs 10 --num-workers 0 --torch-threads 1 --total-env-steps 100"
EVALUATION = "--eval-interval 0 --final-eval-episodes-per-task 1"
SMALL = [word for flags in (AGENT, NETWORK, SHORT, EVALUATION) for word in flags.split()]


@pytest.mark.slow
def test_a_run_on_the_training_tasks_is_tuned_on_a_goal_of_a_test_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("MTRL_CACHE_DIR", str(request.config.cache.mkdir("metaworld")))
    before, tuned = tmp_path / "before", tmp_path / "tuned"
    assert main(["train", "--suite", "ml10-train", *SMALL, "--run-dir", str(before)]) == 0
    task = ["--suite", "ml10-test:door-close", "--suite.goals", "7", "--warm-start", str(before)]
    capsys.readouterr()
    assert main(["train", *task, *SMALL, "--run-dir", str(tuned)]) == 0
    # Where no network knows how many tasks there are, only what belongs to a task is new.
    said = capsys.readouterr().out
    assert f"warm start from {before}, step 100" in said
    new = said.partition("of another shape: ")[2].partition("\n")[0].split(", ")
    assert new
    assert not [name for name in new if "architecture" in name or "trunk" in name], new
    settings = json.loads((tuned / "meta.json").read_text())["settings"]
    assert settings["tasks"] == ["door-close-v3"]
    assert settings["goals"] == [7]
    assert settings["goal"] == "hidden, zeros in the observation"
    assert f'warm_start: "{before}"' in (tuned / "config.yaml").read_text()
