"""The loggers and callbacks of a run: chosen by name, guarded, and without effect on what is learned."""

from __future__ import annotations

import csv
import logging
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from mtrl.errors import BadInput
from mtrl.faults import PluginFault
from mtrl.loggers.metric_logger import LoggedRun, loggers
from mtrl.loggers.tracking.trackio import TrackioLogger
from mtrl.registry import trust_module
from mtrl.training import run
from tests.training.tiny_runs import WALL_CLOCK, differences, final_state, in_child, log_rows, tiny_config

PLUGIN = """
from dataclasses import dataclass
from mtrl.loggers import Callback, MetricLogger

told = []


class Fails(MetricLogger):
    def on_metrics(self, row):
        if row["env_steps"] > 160:
            raise OSError("the network is gone")  # fails


class Exits(MetricLogger):
    def on_evaluation(self, rows, metrics):
        raise SystemExit(3)


class CannotStart(MetricLogger):
    def __init__(self, run, config):
        raise ConnectionError("no route to host")


class Told(Callback):
    @dataclass(frozen=True, kw_only=True)
    class Config:
        word: str = ""  # to say

    def on_metrics(self, row):
        told.append((self.config.word, "metrics", row["env_steps"]))

    def on_evaluation(self, rows, metrics):
        kept = (self.run.folder / "eval.csv").read_text().count(str(rows[0].env_steps))
        told.append(("evaluation", rows[0].env_steps, kept, metrics["eval/mean_return"]))

    def on_checkpoint(self, env_steps, folder):
        told.append(("checkpoint", env_steps, folder.name.partition("_")[0], (folder / "manifest.json").is_file()))

    def close(self):
        told.append("closed")


class Faulty(Callback):
    def on_checkpoint(self, env_steps, folder):
        raise LookupError("no such step")  # faulty
"""
MODULE = "their_loggers"
SHORT: dict[str, Any] = {"total_env_steps": 400, "final_eval_episodes_per_task": 0}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / f"{MODULE}.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    sys.modules.pop(MODULE, None)
    trust_module(MODULE)
    return sys.modules[MODULE]


def place(comment: str) -> str:
    line = next(number for number, text in enumerate(PLUGIN.splitlines(), 1) if text.endswith(f"# {comment}"))
    return f"{MODULE}.py:{line})"


def test_no_logger_leaves_no_files_of_loggers_and_the_same_run(tmp_path: Path) -> None:
    assert run.train(tiny_config(**SHORT), tmp_path / "default") == 0
    assert run.train(tiny_config(**SHORT, logger=["none"]), tmp_path / "none") == 0
    assert (tmp_path / "default" / "tb").is_dir()
    assert {path.name for path in (tmp_path / "default").iterdir()} - {
        path.name for path in (tmp_path / "none").iterdir()
    } == {"tb"}
    assert differences(final_state(tmp_path / "default"), final_state(tmp_path / "none")) == []
    assert differences(log_rows(tmp_path / "default"), log_rows(tmp_path / "none")) == []


def table(run_dir: Path) -> list[dict[str, str]]:
    with open(run_dir / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in WALL_CLOCK} for row in csv.DictReader(file)]


def test_the_table_of_an_interrupted_run_is_that_of_an_uninterrupted_one(tmp_path: Path) -> None:
    config = tiny_config(total_env_steps=400, logger=["csv"])
    assert run.train(config, tmp_path / "whole") == 0
    assert in_child(lambda: run.train(config, tmp_path / "killed"), at_progress=45) == -signal.SIGKILL
    assert run.resume(tmp_path / "killed", {}) == 0
    assert table(tmp_path / "whole") == table(tmp_path / "killed")
    rows = table(tmp_path / "whole")
    assert [row["env_steps"] for row in rows] == ["80", "160", "240", "320", "400", "400", "400"]
    assert [row["eval/kind"] for row in rows] == [""] * 5 + ["periodic", "final"]
    logged = log_rows(tmp_path / "whole")[0]
    assert float(rows[4]["losses/mean_critic_loss"]) == logged[4]["losses/mean_critic_loss"]


@pytest.mark.usefixtures("plugin")
def test_a_logger_that_fails_in_mid_run_is_one_warning_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"{MODULE}:Fails", f"{MODULE}:Exits", "csv"]
    with caplog.at_level(logging.WARNING):
        assert run.train(tiny_config(**SHORT, logger=names), tmp_path / "run") == 0
    first, second = caplog.messages
    assert first.startswith(f"logger '{names[0]}' has stopped, the run goes on without it: plug-in Fails (")
    assert first.endswith(f"{place('fails')} raised OSError: the network is gone")
    assert "plug-in Exits" in second
    assert [row["env_steps"] for row in table(tmp_path / "run")][-1] == "400"
    assert run.train(tiny_config(**SHORT, logger=[]), tmp_path / "alone") == 0
    assert differences(final_state(tmp_path / "alone"), final_state(tmp_path / "run")) == []


def test_a_full_disk_of_a_logger_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr("mtrl.loggers.csv_table.replace_file", full)
        assert run.train(tiny_config(**SHORT, logger=["csv"]), tmp_path / "run") == 0
    assert len(caplog.messages) == 1
    assert "logger 'csv' has stopped" in caplog.text


@pytest.mark.usefixtures("plugin")
def test_a_logger_that_cannot_start_is_refused_unless_a_run_is_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{MODULE}:CannotStart"
    with pytest.raises(BadInput, match=rf"logger '{name}' cannot start: plug-in .* ConnectionError: no route to host"):
        run.train(tiny_config(**SHORT, logger=[name]), tmp_path / "run")
    assert run.train(tiny_config(**SHORT, logger=["none"]), tmp_path / "run") == 0
    assert run.resume(tmp_path / "run", {"logger": [name], "total_env_steps": 480}) == 0
    assert f"logger '{name}' has stopped" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"logger": ["wandbb"]}, r"unknown logger 'wandbb' \(did you mean 'wandb'\?\)"),
        (
            {"logger": ["csv"], "logger_settings": {"wandb.project": "x"}},
            "must be NAME.SETTING of a logger of this",
        ),
        ({"logger": ["csv"], "logger_settings": {"csv.columns": "x"}}, "unknown key 'csv.columns'"),
        ({"callback": ["nothing"]}, "unknown callback 'nothing'"),
        ({"callback": ["mine:Mine"]}, "needs the plug-in 'mine', which is code that this command line does not name"),
        ({"logger": ["mine:Mine"]}, "needs the plug-in 'mine', which is code that this command line does not name"),
    ],
)
def test_wrong_names_and_settings_are_one_line(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        run.train(tiny_config(**SHORT, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_refused_before_there_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrackioLogger, "package", "trackio_that_is_not_there")
    with pytest.raises(BadInput, match=r"pip install 'mtrl-suite\[trackio\]'"):
        run.train(tiny_config(**SHORT, logger=["trackio"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_callback_is_told_of_metrics_evaluations_and_checkpoints(tmp_path: Path, plugin: Any) -> None:
    name = f"{MODULE}:Told"
    config = tiny_config(
        **SHORT, log_interval=200, callback=[name], callback_settings={f"{name}.word": "x"}, checkpoint_interval=320
    )
    assert config.plugins == (MODULE,)
    assert run.train(config, tmp_path / "run") == 0
    _, (first, *_) = log_rows(tmp_path / "run")
    events = [event[:-1] if event[0] == "evaluation" else event for event in plugin.told]
    assert events == [
        ("x", "metrics", 200),
        ("checkpoint", 320, "step", True),
        ("x", "metrics", 400),
        ("checkpoint", 400, "best", True),
        ("evaluation", 400, 4),
        ("checkpoint", 400, "step", True),
        "closed",
    ]
    assert first.env_steps == 400


@pytest.mark.usefixtures("plugin")
def test_a_fault_of_a_callback_is_named_and_loses_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(PluginFault, match="no such step") as caught:
        run.train(tiny_config(**SHORT, callback=[f"{MODULE}:Faulty"]), tmp_path / "run")
    assert f"{place('faulty')} raised LookupError" in str(caught.value)
    assert final_state(tmp_path / "run")["step"] == 320


def test_every_registered_logger_has_a_description_and_settings_with_defaults() -> None:
    assert sorted(loggers.names()) == sorted(["none", "csv", "tensorboard", "mlflow", "trackio", "wandb"])
    for cls in loggers.classes():
        assert cls.__doc__
        cls.Config()


def test_a_run_is_named_by_its_last_two_folders() -> None:
    assert LoggedRun(Path("/home/me/runs/a"), "").name == "runs/a"
    assert LoggedRun(Path("/a"), "").name == "a"
