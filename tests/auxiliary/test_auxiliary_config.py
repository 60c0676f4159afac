"""Auxiliary tasks in YAML and on the command line: a list of classes, each with settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import agents
import envs
from mtrl import registry
from mtrl.auxiliary import auxiliary_tasks
from mtrl.config.schema import dump_yaml, parse_yaml, resolve_config
from mtrl.errors import BadInput
from tests.cli.commands import assert_refused, call

agents.register()
envs.register()

BASE = {"suite": "point-mass", "encoder": "mlp"}
PLUGIN = """
from mtrl.auxiliary import AuxiliaryTask
from mtrl.per_task import mean_per_task

class Small(AuxiliaryTask):
    def forward(self, inputs):
        return mean_per_task(inputs.features.square().mean(1), inputs.batch.task_ids, self.num_tasks)

class Wrong(AuxiliaryTask):
    def forward(self, inputs):
        return inputs.features.square().mean()
"""
QUICK = ["--suite", "point-mass", "--encoder", "mlp", "--encoder.width", "8", "--num-workers", "0"]
QUICK += ["--total-env-steps", "40", "--agent.learning-starts", "4", "--agent.batch-size", "8"]
QUICK += ["--architecture.width", "8", "--architecture.depth", "1", "--final-eval-episodes-per-task", "0"]


@pytest.mark.parametrize(
    "auxiliary",
    [
        "reward-prediction",
        ["reward-prediction"],
        [{"name": "reward-prediction", "coefficient": 0.5}],
        {"name": ["reward-prediction"], "reward-prediction": {"coefficient": 0.5}},
    ],
)
def test_every_form_is_printed_as_a_list_and_read_back(auxiliary: Any) -> None:
    config = resolve_config(BASE, {"auxiliary": auxiliary})
    assert [choice.name for choice in config.auxiliary.values()] == ["reward-prediction"]
    assert parse_yaml(dump_yaml(config)) == config


def test_a_later_list_replaces_an_earlier_one_and_keeps_the_settings_of_those_in_both() -> None:
    file = {**BASE, "auxiliary": [{"name": "reward-prediction", "coefficient": 0.5}]}
    same = resolve_config(file, {"auxiliary": {"name": ["reward-prediction"]}})
    assert same.auxiliary["reward-prediction"].config.coefficient == 0.5
    assert resolve_config(file, {"auxiliary": []}).auxiliary == {}
    changed = resolve_config(file, {"auxiliary": {"reward-prediction": {"zero": 0.1}}})
    assert changed.auxiliary["reward-prediction"].config == same.auxiliary["reward-prediction"].config.__class__(
        coefficient=0.5, zero=0.1
    )


@pytest.mark.parametrize(
    ("auxiliary", "message"),
    [
        (["reward-predictoin"], r"unknown auxiliary task 'reward-predictoin' \(did you mean 'reward-prediction'\?\)"),
        (["reward-prediction"] * 2, "'reward-prediction' is there twice"),
        ([{"name": "reward-prediction", "coefficient": -1}], "coefficient: -1 is not allowed; must be a finite number"),
        ([{"name": "reward-prediction", "rate": 1}], "unknown key 'auxiliary.reward-prediction.rate'"),
        ([{"coefficient": 1}], "has no name"),
        ([3], r"\[3\] is not allowed; must be a list of names"),
        (None, "None is not allowed"),
        ({"reward-prediction": {}}, "reward-prediction: not among the auxiliary tasks; none is chosen"),
        ({"name": "reward-prediction", "reward-predict": {}}, "did you mean 'reward-prediction'"),
        ({"name": "reward-prediction", "reward-prediction": 1}, "must be a mapping of settings"),
        (["os:system"], "code that this command line does not name"),
    ],
)
def test_what_is_wrong_is_named(auxiliary: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        resolve_config(BASE, {"auxiliary": auxiliary})


def test_flags_choose_tasks_and_their_settings(tmp_path: Path) -> None:
    flags = ["train", *QUICK, "--auxiliary", "reward-prediction", "--auxiliary.reward-prediction.coefficient", "0.25"]
    printed = call(*flags, "--print-config")
    assert printed.code == 0, printed.error
    assert parse_yaml(printed.out).auxiliary["reward-prediction"].config.coefficient == 0.25
    (tmp_path / "run.yaml").write_text(printed.out)
    file = ("train", "--config", str(tmp_path / "run.yaml"))
    assert call(*file, "--print-config").out == printed.out
    assert parse_yaml(call(*file, "--auxiliary", "--print-config").out).auxiliary == {}
    help_text = call(*flags, "--help").out
    assert "--auxiliary [NAME ...]" in help_text
    assert "--auxiliary.reward-prediction.gate" in help_text
    assert "--auxiliary.reward-prediction.coefficient" not in call("train", *QUICK, "--help").out
    assert all(name in call("list", "auxiliaries").out for name in auxiliary_tasks.names())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--auxiliary", "reward"], "unknown auxiliary task 'reward'"),
        (
            ["--auxiliary.reward-prediction.coefficient", "1"],
            "unknown flag '--auxiliary.reward-pred",
        ),
        (["--auxiliary", "reward-prediction", "--encoder", "identity"], "the encoder here has no parameters"),
        (["--auxiliary", "reward-prediction", "--auxiliary.reward-prediction.coefficient", "-1"], "at least 0"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(flags: list[str], message: str) -> None:
    given = QUICK[:2] if "identity" in flags else QUICK
    assert_refused(call("train", *given, *flags), message)


def test_a_class_from_this_folder_learns_and_its_fault_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_auxiliary.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    flags = ["--auxiliary", "my_auxiliary:Small", "reward-prediction", "--auxiliary.Small.coefficient", "0.1"]
    done = call("train", *QUICK, *flags, "--run-dir", "run", "--log-interval", "8")
    assert done.code == 0, done.error
    assert '"auxiliary/Small/' in (tmp_path / "run" / "metrics.jsonl").read_text()
    config = parse_yaml((tmp_path / "run" / "config.yaml").read_text(), plugins=["my_auxiliary"])
    assert config.auxiliary["Small"].config.coefficient == 0.1
    with monkeypatch.context() as another_process:
        another_process.setattr(registry, "_trusted_modules", {})
        assert_refused(call("eval", "run", "--episodes-per-task", "1"), "add --plugin my_auxiliary")
    assert call("eval", "run", "--episodes-per-task", "1", "--plugin", "my_auxiliary").code == 0
    flags = ["--auxiliary", "my_auxiliary:Wrong", "--run-dir", "wrong"]
    assert_refused(call("train", *QUICK, *flags), "Wrong", "losses ()", "expected losses (1,)")
    wrong = call("train", *QUICK, *flags, "--no-check-plugins")
    assert_refused(wrong, "Wrong", "losses ()", "expected losses (4,)")
