"""Several commands at a time: how they end, and what a signal does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from mtrl.launch.processes import ChildRun, LocalEngine, run_all


def child(folder: Path, name: str, *arguments: str) -> ChildRun:
    return ChildRun(name, folder / name, arguments, folder / f"{name}.log", 100)


def test_a_run_that_fails_stops_no_other(tmp_path: Path) -> None:
    runs = [child(tmp_path, "a", "trian"), child(tmp_path, "b", "--version"), child(tmp_path, "c", "--version")]
    at_once = []
    assert run_all(runs, LocalEngine(2), lambda: at_once.append(sum(run.state == "running" for run in runs))) == 2
    assert [run.state for run in runs] == ["failed", "done", "done"]
    assert max(at_once) <= 2
    assert runs[0].last_words().startswith("unknown verb 'trian'")
    assert "mtrl-suite" in (tmp_path / "b.log").read_text()


def test_a_signal_reaches_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    runs = [child(tmp_path, name, "train", "--print-config", "--suite", "point-mass") for name in "ab"]

    def interrupt() -> None:
        if runs[0].state == "running" and not runs[0].stopped:
            os.kill(os.getpid(), signal.SIGTERM)

    assert run_all(runs, LocalEngine(1), interrupt) == 143
    assert [run.state for run in runs] == ["stopped", "stopped"]
    assert runs[1].process is None
