"""The table of experts, student and multi-task training, from fabricated runs."""

from __future__ import annotations

from pathlib import Path

import agents
import envs
from benchmarks.experts import sac_flags, student_flags, table
from mtrl.cli.main import main
from mtrl.config.schema import dump_yaml, resolve_config
from mtrl.runs.logs import EvaluationRow
from mtrl.runs.run_directory import RunDirectory


def write(path: Path, rates: dict[str, float]) -> None:
    """A finished run with these success rates."""
    agents.register()
    envs.register()
    with RunDirectory.create(path) as run:
        run.write_config(dump_yaml(resolve_config({"suite": "point-mass-conflict"})))
        run.write_meta({"status": "running"})
        run.append_metrics({"env_steps": 1000, "time/env_steps_per_second": 100.0})
        run.append_evaluation(EvaluationRow(1000, task, 5, rate, 1.0, "final") for task, rate in rates.items())
        run.set_status("done", 0)


def test_experts_student_and_multi_task_training_are_compared_by_task(tmp_path: Path) -> None:
    for seed, rate in ((1, 0.5), (2, 1.0)):
        write(tmp_path / f"a-seed-{seed}", {"a": rate})
        write(tmp_path / f"student-seed-{seed}", {"a": 0.25, "b": 0.75})
    write(tmp_path / "b-seed-2", {"b": 0.0})
    assert table(tmp_path, ("a", "b"), (1, 2)).splitlines() == [
        "| task | expert | student | multi-task |",
        "| --- | ---: | ---: | ---: |",
        "| a | 0.75 (0.50 to 1.00) | 0.25 (0.25 to 0.25) |  |",
        "| b | 0.00 | 0.75 (0.75 to 0.75) |  |",
        "| mean | 0.50 | 0.50 (0.50 to 0.50) |  |",
    ]


def test_the_flags_are_those_of_mtrl_train(tmp_path: Path) -> None:
    tasks = ("reach-v3", "push-v3")
    student = student_flags(tmp_path, tasks, 1, 1000)
    for suite, flags in (("metaworld:reach-v3", sac_flags(90_000)), ("metaworld:reach,push", student)):
        assert main(["train", "--suite", suite, *flags, "--print-config"]) == 0
