"""`mtrl status`: a line for each run, whatever state its files are in."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from tests.cli.commands import assert_refused, call


def write_run(path: Path, env_steps: int, config: str = "total_env_steps: 200\n", **meta: Any) -> None:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(config)
    holder = {"pid": os.getpid(), "host": socket.gethostname()}
    (path / "meta.json").write_text(json.dumps({"score": "success", **holder, **meta}))
    row = {"env_steps": env_steps, "eval/kind": "periodic", "eval/mean_success_rate": 0.75}
    (path / "metrics.jsonl").write_text(json.dumps(row) + "\n")


def test_every_run_has_a_line_with_its_status(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    write_run(folder / "a" / "seed-1", 200, status="done", exit_code=0)
    write_run(folder / "a" / "seed-2", 50, status="running", exit_code=None)
    write_run(folder / "b", 50, status="running", exit_code=None, pid=2**22 + 1)  # above every process id
    write_run(folder / "c", 100, status="done", exit_code=143)
    write_run(folder / "d", 100, status="failed", exit_code=3)
    write_run(folder / "e", 100, status="running", host="elsewhere", pid=2**22 + 1)
    write_run(folder / "f", 100, config="total_env_steps: [", status="done", exit_code=0)
    write_run(folder / "h", 200, status="interrupted", exit_code=0)  # in its final evaluation
    (folder / "g").mkdir()
    (folder / "g" / "meta.json").write_text("{")
    finished = call("status", str(folder))
    assert finished.code == 0
    rows = {line.split()[0]: line.split()[1:] for line in finished.out.splitlines() if "ago" in line}
    assert rows["a/seed-1"][:4] == ["done", "200", "100.0%", "-"]
    assert rows["a/seed-1"][4:6] == ["0.75", "success"]
    assert rows["a/seed-2"][:3] == ["running", "50", "25.0%"]
    assert rows["b"][0] == rows["c"][0] == rows["h"][0] == "interrupted"
    assert rows["d"][:2] == ["failed", "(3)"]
    assert rows["e"][0] == "running"
    assert rows["f"][:3] == ["done", "100", "-"]
    assert rows["g"][0] == "waiting"
    assert "9 runs: 2 done, 1 failed, 3 interrupted, 2 running, 1 waiting" in finished.out
    assert call("status", str(folder / "b")).out.splitlines()[-1] == "1 run: 1 interrupted"


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    assert_refused(call("status", str(tmp_path)), "no run directory in it")
    assert_refused(call("status", str(tmp_path / "nowhere")), "no run directory")
    assert_refused(call("status"), "FOLDER")
