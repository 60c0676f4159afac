"""The table of several runs."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from mtrl.launch.processes import ChildRun
from mtrl.launch.run_status import Standing, read_standing
from mtrl.launch.table import RunsTable


def write(run_dir: Path, *rows: dict[str, object], score: str = "success") -> None:
    run_dir.mkdir()
    (run_dir / "meta.json").write_text(json.dumps({"score": score}))
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"env_steps": 99')


def test_a_run_stands_where_its_last_rows_are(tmp_path: Path) -> None:
    assert read_standing(tmp_path / "none") == Standing()
    training = {
        "train/num_updates": 3,
        "train/mean_success_rate": 0.5,
        "train/mean_return": 7.0,
        "time/env_steps_per_second": 20.0,
    }
    evaluation = {"env_steps": 40, "eval/kind": "periodic", "eval/mean_success_rate": 0.75}
    write(tmp_path / "a", {"env_steps": 20, "train/mean_success_rate": 0.1}, evaluation, {"env_steps": 50, **training})
    assert read_standing(tmp_path / "a") == Standing(50, 20.0, 0.5, 0.75, "success")
    conflict = {"env_steps": 50, "actor/conflict_rate": 0.25}
    write(tmp_path / "b", {"env_steps": 50, **training}, conflict, score="return")
    assert read_standing(tmp_path / "b") == Standing(50, 20.0, 7.0, None, "return")


def test_every_run_has_a_row(tmp_path: Path) -> None:
    row = {"train/num_updates": 3, "time/env_steps_per_second": 10.0, "train/mean_success_rate": 0.5}
    write(tmp_path / "seed-1", {"env_steps": 50, **row})
    runs = [ChildRun(f"seed-{seed}", tmp_path / f"seed-{seed}", [], tmp_path / "log", 200) for seed in (1, 2)]
    runs[0].exit_code = 3
    output = io.StringIO()
    with RunsTable(runs, Console(file=output, width=100)) as table:
        table.update()
    lines = output.getvalue().splitlines()
    first, second = (next(line.split() for line in lines if line.strip().startswith(f"seed-{n}")) for n in (1, 2))
    assert first == ["seed-1", "failed", "(3)", "50", "25.0%", "10", "-", "0.50", "-"]
    assert second == ["seed-2", "waiting", "0", "0.0%", "-", "-", "-", "-"]
