"""What a run says of itself on the console, and its rates."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mtrl.evaluation.evaluator import EvaluationResult, Evaluator
from mtrl.training import run
from tests.training.tiny_runs import tiny_config


def test_the_first_line_says_what_is_trained_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(total_env_steps=80, eval_interval=0, final_eval_episodes_per_task=1)
    assert run.train(config, tmp_path / "run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("point-mass (4 tasks), sac, 80 env steps, mlp with ")
    assert lines[0].endswith(f" parameters, cpu, {tmp_path / 'run'}")
    # Two critics of (2 + 2 + 4, 16, 1), a policy of (2 + 4, 16, 4), a temperature for each task.
    assert f"{2 * (8 * 16 + 16 + 17) + (6 * 16 + 16 + 17 * 4) + 4:,} parameters" in lines[0]
    assert "success" not in "".join(lines)  # the score of point-mass is the return


@pytest.mark.slow
def test_rates_of_the_metrics_leave_the_time_of_evaluations_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Evaluator.evaluate

    def slowly(*arguments: Any, **named: Any) -> EvaluationResult:
        time.sleep(1.0)
        return evaluate(*arguments, **named)

    monkeypatch.setattr(Evaluator, "evaluate", slowly)
    config = tiny_config(total_env_steps=800, log_interval=200, eval_interval=200, final_eval_episodes_per_task=0)
    assert run.train(config, tmp_path / "run") == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = next(row for row in reversed(rows) if "time/wall_seconds" in row)
    assert last["time/wall_seconds"] > 3
    training = 800 / last["time/env_steps_per_second"]
    assert training < last["time/wall_seconds"] - 2.9
