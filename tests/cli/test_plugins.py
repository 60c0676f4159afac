"""Classes from a folder outside the project: trained with, resumed and evaluated without being installed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.fresh_process import run_fresh

MODULE = '''
"""A plug-in of somebody else."""
from dataclasses import dataclass

import torch
from torch import nn

from mtrl.networks import PolicyArchitecture


class Tiny(PolicyArchitecture):
    """One hidden layer; the task id is a number."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: int = 8  # hidden units

    def __init__(self, in_features, out_features, num_tasks, config):
        super().__init__(in_features, out_features, num_tasks, config)
        hidden = nn.Linear(in_features + 1, config.width)
        self.layers = nn.Sequential(hidden, nn.ReLU(), nn.Linear(config.width, out_features))

    def forward(self, features, task_ids):
        return self.layers(torch.cat([features, task_ids.float().unsqueeze(-1)], dim=-1))
'''

TRAIN = [
    *("train", "--suite", "point-mass", "--architecture", "my_module:Tiny", "--architecture.width", "12"),
    *("--run-dir", "run", "--total-env-steps", "400", "--num-envs", "4", "--eval-interval", "0"),
    *("--final-eval-episodes-per-task", "2", "--agent.learning-starts", "40", "--agent.batch-size", "16"),
]


def mtrl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_fresh("mtrl", *arguments, folder=folder, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the project with a plug-in and a run that used it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "my_module.py").write_text(MODULE)
    result = mtrl(folder, *TRAIN)
    assert result.returncode == 0, result.stderr
    return folder


def test_the_run_remembers_the_plugin_by_name(folder: Path) -> None:
    config = (folder / "run" / "config.yaml").read_text()
    assert "my_module:Tiny" in config
    assert "width: 12" in config


def test_it_resumes_and_is_evaluated_with_the_plugin_named(folder: Path) -> None:
    resumed = mtrl(folder, "train", "--resume", "run", "--plugin", "my_module", "--total-env-steps", "480")
    assert resumed.returncode == 0, resumed.stderr
    evaluated = mtrl(folder, "eval", "run", "--plugin", "my_module", "--episodes-per-task", "2")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "goal-0.8-0.8" in evaluated.stdout


def test_it_learns_by_another_agent_and_normaliser(folder: Path) -> None:
    flags = ["--agent", "ppo", "--agent.rollout-steps", "10", "--normalizer", "popart", "--run-dir", "ppo"]
    trained = mtrl(folder, *TRAIN[:5], "--total-env-steps", "200", "--eval-interval", "0", *flags)
    assert trained.returncode == 0, trained.stderr
    evaluated = mtrl(folder, "eval", "ppo", "--plugin", "my_module", "--episodes-per-task", "2")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "goal-0.8-0.8" in evaluated.stdout


@pytest.mark.parametrize("arguments", [("eval", "run"), ("train", "--resume", "run")])
def test_without_the_flag_nothing_is_imported_and_the_flag_is_printed(folder: Path, arguments: tuple[str, ...]) -> None:
    (folder / "imported").unlink(missing_ok=True)
    (folder / "my_module.py").write_text(f"open({str(folder / 'imported')!r}, 'w')\n{MODULE}")
    result = mtrl(folder, *arguments)
    assert result.returncode == 2
    assert "--plugin my_module" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (folder / "imported").exists()


def test_a_class_that_the_module_lacks_is_named(folder: Path) -> None:
    result = mtrl(folder, "train", "--architecture", "my_module:Tony", "--run-dir", "other")
    assert result.returncode == 2
    assert "Tony" in result.stderr
    assert not (folder / "other").exists()


FAULTY = (
    MODULE
    + """

class Dropout(Tiny):
    def forward(self, features, task_ids):
        return nn.functional.dropout(super().forward(features, task_ids))


class Later(Tiny):
    def forward(self, features, task_ids):
        if len(features) == 16:
            raise LookupError("no such layer")
        return super().forward(features, task_ids)
"""
)


def test_a_class_that_breaks_its_contract_is_refused_unless_the_check_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "my_module.py").write_text(FAULTY)
    flags = ["--architecture", "my_module:Dropout", "--eval-interval", "0", "--final-eval-episodes-per-task", "0"]
    command = [*TRAIN, *flags]
    refused = mtrl(tmp_path, *command)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: architecture 'my_module:Dropout': ")
    assert "my_module.Dropout" in refused.stderr
    # Which of the two rules is found broken first is a matter of chance: two masks may be equal.
    assert "the same inputs give another output" in refused.stderr or "uses the global" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert mtrl(tmp_path, *command, "--no-check-plugins").returncode == 0


def test_a_fault_of_a_class_is_one_line_and_its_traceback_is_kept(tmp_path: Path) -> None:
    (tmp_path / "my_module.py").write_text(FAULTY)
    failed = mtrl(tmp_path, *TRAIN, "--architecture", "my_module:Later", "--no-check-plugins")
    assert failed.returncode == 2
    line = 1 + next(number for number, text in enumerate(FAULTY.splitlines()) if "raise LookupError" in text)
    place = f"{tmp_path / 'my_module.py'}:{line}"
    error = failed.stderr.splitlines()[-1]
    assert error.startswith(f"error: plug-in Later ({place}) raised LookupError: no such layer (traceback: run/")
    (trace,) = (tmp_path / "run" / "diagnostics").glob("traceback-*.txt")
    assert "LookupError: no such layer" in trace.read_text()
    assert json.loads((tmp_path / "run" / "meta.json").read_text())["exit_code"] == 2


SCHEDULER = '''
"""A scheduler of somebody else."""
from dataclasses import dataclass

from mtrl.scheduling import ActiveScheduler
from mtrl.testing import check_scheduler


class Mine(ActiveScheduler):
    """Shares by the square of the distance from the target."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ActiveScheduler.Config):
        power: float = 2.0  # of the distance

    def shares(self, distances, ended):
        raw = distances**self.config.power + 1e-9
        return raw / raw.sum()


if __name__ == "__main__":
    check_scheduler(Mine)
'''


def test_a_scheduler_of_a_user_keeps_the_contract_and_schedules(tmp_path: Path) -> None:
    (tmp_path / "my_module.py").write_text(SCHEDULER)
    checked = run_fresh("python", "my_module.py", folder=tmp_path, timeout=120)
    assert checked.returncode == 0, checked.stderr
    settings = ["--scheduler.power", "3", "--scheduler.uniform-episodes", "1", "--log-interval", "80"]
    small = [*TRAIN[5:], "--suite", "point-mass-hard"]
    result = mtrl(tmp_path, "train", "--scheduler", "my_module:Mine", *settings, *small)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = next(row for row in reversed(rows) if "eval/kind" not in row)
    assert last["train/share/goal+0.8+0.8"] > 0.5
    assert "q_am" in result.stdout
