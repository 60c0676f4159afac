"""The table of all aggregators, from fabricated runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import agents
import envs
from benchmarks.balancing import method_flags, table
from benchmarks.trained_runs import outcome
from mtrl.config.schema import dump_yaml, resolve_config
from mtrl.errors import BadInput
from mtrl.runs.logs import EvaluationRow
from mtrl.runs.run_directory import RunDirectory


@pytest.fixture(autouse=True)
def _registered() -> None:
    agents.register()
    envs.register()


def write(path: Path, speed: float, rates: tuple[float, float], conflicts: list[float], finished: bool = True) -> None:
    """A run of two tasks that ended with the given speed (env steps per second) and success rates."""
    with RunDirectory.create(path) as run:
        run.write_config(dump_yaml(resolve_config({"suite": "point-mass-conflict"})))
        run.write_meta({"status": "running"})
        for rate in conflicts:
            run.append_metrics({"env_steps": 500, "critic/conflict_rate": rate})
        run.append_metrics({"env_steps": 1000, "time/env_steps_per_second": speed})
        run.append_evaluation(
            EvaluationRow(1000, task, 5, rate, 1.0, "final") for task, rate in zip(("a", "b"), rates, strict=True)
        )
        if finished:
            run.set_status("done", 0)


def test_the_table_has_cost_success_worst_task_and_conflict(tmp_path: Path) -> None:
    write(tmp_path / "mean-seed-1", 100.0, (1.0, 0.5), [0.25, 0.75])
    write(tmp_path / "mgda-seed-1", 50.0, (1.0, 0.9), [])
    write(tmp_path / "mean-seed-2", 80.0, (0.8, 0.2), [0.7])
    lines = table(tmp_path, ["mean", "mgda", "upgrad"], [1, 2]).splitlines()[2:]
    assert lines == [
        "| mean | 2 | 1,000 | 1.00 (1.00 to 1.00) | 0.62 (0.50 to 0.75) | 0.35 (0.20 to 0.50) | 0.60 (0.50 to 0.70) |",
        "| mgda | 1 | 1,000 | 2.00 | 0.95 | 0.90 |  |",
    ]


def test_the_table_has_mean_returns_by_task_if_asked(tmp_path: Path) -> None:
    write(tmp_path / "mean-seed-1", 100.0, (0.0, 0.0), [])
    assert table(tmp_path, ["mean"], [1], returns=True).splitlines() == [
        "| aggregator | seeds | env steps | time, mean = 1 | a | b | conflicting pairs |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| mean | 1 | 1,000 | 1.00 | 1.00 | 1.00 |  |",
    ]


def test_a_run_that_was_cut_off_has_no_outcome(tmp_path: Path) -> None:
    write(tmp_path / "run", 100.0, (1.0, 0.5), [], finished=False)
    assert outcome(tmp_path / "run") is None
    assert outcome(tmp_path / "missing") is None


def test_a_method_that_reads_positive_losses_is_taken_where_there_are_some() -> None:
    assert method_flags("mgda", "sac") == ["--aggregator", "mgda"]
    assert method_flags("dwa", "sac") == ["--aggregator", "dwa", "--aggregator.actor", "mean"]
    assert method_flags("dwa", "ppo") == ["--aggregator", "dwa"]
    assert method_flags("popart", "ppo") == ["--aggregator", "mean", "--normalizer", "popart"]
    with pytest.raises(BadInput, match="unknown aggregator"):
        method_flags("means", "sac")
