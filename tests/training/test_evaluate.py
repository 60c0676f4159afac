"""`mtrl eval` keeps its result and leaves the run as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtrl.errors import StorageFailure
from mtrl.training import run
from mtrl.training.evaluate import evaluate
from tests.training.tiny_runs import differences, final_state, log_rows, tiny_config


def test_an_evaluation_keeps_its_result_and_changes_no_resume(tmp_path: Path) -> None:
    config = tiny_config(total_env_steps=400, eval_interval=0, final_eval_episodes_per_task=3)
    for name in ("calm", "evaluated"):
        assert run.train(config, tmp_path / name) == 0
    returned = evaluate(tmp_path / "evaluated", episodes_per_task=3)
    result = json.loads((tmp_path / "evaluated" / "eval.json").read_text())
    final = log_rows(tmp_path / "evaluated")[1]
    assert (result["suite"], result["env_steps"], result["checkpoint"]) == ("point-mass", 400, "step 400")
    assert result["episodes"]["goal-0.8-0.8"]["return"] == returned.returns[0].tolist()
    assert result["seed"] == config.settings.seed
    for row in final:
        episodes = result["episodes"][row.task]
        assert sum(episodes["return"]) / 3 == pytest.approx(row.mean_return)
        assert len(episodes["success"]) == 3
        assert result["metrics"][f"eval/return/{row.task}"] == row.mean_return
    assert result["metrics"]["eval/mean_return"] == pytest.approx(sum(row.mean_return for row in final) / 4)
    for name in ("calm", "evaluated"):
        assert run.resume(tmp_path / name, {"total_env_steps": 480}) == 0
    assert differences(final_state(tmp_path / "calm"), final_state(tmp_path / "evaluated")) == []
    assert log_rows(tmp_path / "calm") == log_rows(tmp_path / "evaluated")


def test_the_result_goes_where_the_user_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(total_env_steps=80, eval_interval=0, final_eval_episodes_per_task=0)
    assert run.train(config, tmp_path / "run") == 0
    before = sorted((tmp_path / "run").iterdir())
    evaluate(tmp_path / "run", episodes_per_task=1, seed=5, output=tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["seed"] == 5
    assert sorted((tmp_path / "run").iterdir()) == before
    with pytest.raises(StorageFailure, match="File name too long"):
        evaluate(tmp_path / "run", episodes_per_task=1, output=tmp_path / f"{'r' * 300}.json")
    assert "mean return" in capsys.readouterr().out  # the table was shown before
