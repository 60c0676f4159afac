"""Tracking tools, offline: the rows can be read back, and a resumed run goes on with the same run, nothing twice."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mtrl.loggers.metric_logger import LoggedRun
from mtrl.loggers.tracking.mlflow import MLflowLogger
from mtrl.loggers.tracking.tracked_run import TrackedRun
from mtrl.loggers.tracking.trackio import TrackioLogger
from mtrl.loggers.tracking.wandb import WandbLogger
from mtrl.runs.logs import MetricsLog
from mtrl.runs.run_directory import METRICS

CONFIG = "suite:\n  name: point-mass\nseed: 1\n"


def row(env_steps: int, **more: Any) -> dict[str, Any]:
    return {"env_steps": env_steps, "train/return/goal+0.8": env_steps / 2, **more}


ROWS = [row(10), row(20), {"env_steps": 20, "eval/kind": "periodic", "eval/mean_return": 1.5}, row(30), row(40)]
"""What an uninterrupted run logs."""


class Run:
    """A run directory whose rows are logged as a run does: first in metrics.jsonl, then in the logger."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.metrics = MetricsLog(folder / METRICS)

    def rewind(self, num_rows: int) -> None:
        """Keeps the first rows, as a resume does."""
        lines = self.metrics.file.lines()[:num_rows]
        self.metrics.file.keep(lambda line: line in lines)

    def logged(self, cls: type[TrackedRun], first: int, last: int, **settings: Any) -> str:
        """Logs ROWS[first:last] in a process of its own start; returns the id of the tool's run."""
        self.rewind(first)
        resumed_at = ROWS[first - 1]["env_steps"] if first else None
        logger = cls(LoggedRun(self.folder, CONFIG, resumed_at), cls.Config(**settings))  # type: ignore[call-arg]
        for index in range(first, last):
            self.metrics.append(ROWS[index])
            if "eval/kind" in ROWS[index]:
                logger.on_evaluation([], ROWS[index])
            else:
                logger.on_metrics(ROWS[index])
        logger.close()
        stored = json.loads((self.folder / "loggers" / f"{cls.name}.json").read_text())
        assert stored["num_rows"] == last
        return str(stored["run"])


class Memory(TrackedRun):
    """A tool that forgets nothing."""

    name, package = "memory", "json"
    sent: list[tuple[int, int]]

    def start(self, run_id: str | None) -> str:
        self.sent = []
        return run_id or "new"

    def send(self, index: int, env_steps: int, values: Any) -> None:
        self.sent.append((index, env_steps))


def test_a_resumed_run_sends_what_the_tool_lacks_and_nothing_twice(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.logged(Memory, 0, 4) == "new"
    # Resumed at the evaluation of step 20: row 3 comes again.
    run.rewind(3)
    logger = Memory(LoggedRun(tmp_path, CONFIG, 20), Memory.Config())
    for again in ROWS[3:]:
        logger.on_metrics(again)
    assert logger.sent == [(4, 40)]
    # A tool that missed rows, because it had stopped, gets them when the run is resumed.
    stored = tmp_path / "loggers" / "memory.json"
    stored.write_text(stored.read_text().replace("5", "1"))
    logger = Memory(LoggedRun(tmp_path, CONFIG, 20), Memory.Config())
    assert logger.sent == [(1, 20), (2, 20)]


def test_mlflow_has_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    run, settings = Run(tmp_path), {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "tests"}
    run_id = run.logged(MLflowLogger, 0, 4, **settings)
    assert run.logged(MLflowLogger, 3, 5, **settings) == run_id
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        found = database.execute("select key, step, value from metrics order by step").fetchall()
        parameters = dict(database.execute("select key, value from params").fetchall())
        runs = database.execute("select status, name from runs").fetchall()
    assert [(step, value) for key, step, value in found if key == "train/return/goal_0.8"] == [
        (10, 5), (20, 10), (30, 15), (40, 20),
    ]  # fmt: skip
    assert [(step, value) for key, step, value in found if key == "eval/mean_return"] == [(20, 1.5)]
    assert parameters == {"suite.name": "point-mass", "seed": "1"}
    assert runs == [("FINISHED", "/".join(tmp_path.parts[-2:]))]


TRACKIO = """
import sys
from pathlib import Path
from tests.loggers.test_tracking import Run
from mtrl.loggers.tracking.trackio import TrackioLogger
print(Run(Path(sys.argv[1])).logged(TrackioLogger, int(sys.argv[2]), int(sys.argv[3]), project="tests"))
"""


def test_trackio_has_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when the package is imported
    printed = [
        subprocess.run(
            [sys.executable, "-c", TRACKIO, str(tmp_path), first, last], check=True, capture_output=True, text=True
        ).stdout
        for first, last in (("0", "4"), ("3", "5"))
    ]
    assert printed[0] == printed[1]  # the run's name, and nothing of the tool's own
    with sqlite3.connect(tmp_path / "trackio" / "tests.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert {name for name, _, _ in rows} == {printed[0].strip()}
    assert [step for _, step, _ in rows] == [10, 20, 20, 30, 40]
    assert json.loads(rows[2][2])["eval/mean_return"] == 1.5


def test_wandb_offline_has_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = Run(tmp_path)
    run_id = run.logged(WandbLogger, 0, 4, project="tests")
    assert run.logged(WandbLogger, 3, 5, project="tests") == run_id
    files = sorted((tmp_path / "loggers" / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    assert len(files) == 2
    # The file is of framed records; a value stands in it as text behind its name.
    assert [file.read_bytes().count(b"eval/mean_return") > 0 for file in files] == [True, False]


@pytest.mark.parametrize("cls", [MLflowLogger, TrackioLogger, WandbLogger])
def test_a_missing_package_is_one_line_that_names_the_extra(
    cls: type[TrackedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        Exception, match=rf"logger '{cls.name}' needs the package .*pip install 'mtrl-suite\[{cls.name}\]'"
    ):
        cls.check_packages()


KILLED = """
import sys
from pathlib import Path
import psutil
from mtrl.config.schema import Choice
from mtrl.loggers.chosen import make_loggers
from mtrl.loggers.metric_logger import LoggedRun
from mtrl.loggers.tracking.wandb import WandbLogger
(logger,) = make_loggers([Choice("wandb", WandbLogger.Config())], LoggedRun(Path(sys.argv[1]), "seed: 1"))
logger.on_metrics({"env_steps": 0, "loss": 1.0})
for process in psutil.Process().children(recursive=True):
    process.kill()
    process.wait()
for env_steps in range(1, 200):
    logger.on_metrics({"env_steps": env_steps, "loss": 1.0})
logger.close()
print("survived", flush=True)
"""


def test_a_tool_that_dies_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout == "survived\n"
    assert done.stderr.count("logger 'wandb' has stopped, the run goes on without it") == 1
