"""What `mtrl list` and `mtrl doctor` show."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from envs.point_mass import PointMass
from mtrl.agent import agent_types
from mtrl.networks import PolicyArchitecture, architectures
from mtrl.networks.hard_sharing.mlp import MLP
from tests.cli.commands import call

LISTED = """
from dataclasses import dataclass
from torch import nn
from mtrl.networks import PolicyArchitecture, architectures

@architectures.register('tiny-listed')
class Tiny(PolicyArchitecture):
    \"\"\"One linear layer.\"\"\"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        bias: bool = True  # whether it has a bias

    def __init__(self, in_features, out_features, num_tasks, config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.layer = nn.Linear(in_features, out_features, bias=config.bias)

    def forward(self, features, task_ids, draw=None):
        return self.layer(features)
"""


@pytest.fixture
def own_architectures(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[PolicyArchitecture[Any]]]:
    """The registered architectures, for this test only."""
    classes = dict(architectures._classes)
    monkeypatch.setattr(architectures, "_classes", classes)
    return classes


def test_list_shows_every_registered_class_with_its_settings() -> None:
    finished = call("list")
    assert finished.code == 0
    for name in [*agent_types.names(), "mt10", "multi-head", "pcgrad", "uniform", "none", "single", "identity"]:
        assert re.search(rf"^ {name} ", finished.out, re.MULTILINE), name
    assert "discount = 0.99" in finished.out
    assert call("list", "agents").out.count("\n") < finished.out.count("\n")


def test_list_tasks_shows_every_task_of_a_suite_and_its_spaces() -> None:
    finished = call("list", "tasks", "point-mass")
    assert finished.code == 0
    assert [line.split()[0] for line in finished.out.splitlines() if "goal" in line] == ["0", "1", "2", "3"]
    assert "4 tasks; observations (2,); actions Box" in finished.out
    atari = call("list", "tasks", "atari57").out
    assert (atari.count("unlimited") + len(re.findall(r" 1 *$", atari, re.MULTILINE)), "zaxxon" in atari) == (57, True)


def test_list_tasks_takes_the_settings_of_the_suite() -> None:
    name = "gym:CartPole-v1"
    assert re.search(r"CartPole-v1 +7 ", call("list", "tasks", name, "--suite.max-episode-steps", "7").out)
    wrong = call("list", "tasks", name, "--suite.max-steps", "7")
    assert (wrong.code, "did you mean '--suite.max-episode-steps'" in wrong.error) == (2, True)
    assert call("list", "agents", "--suite.max-episode-steps", "7").code == 2


def test_the_help_of_list_tasks_has_the_settings_of_the_suite() -> None:
    assert "--suite.goals" in call("list", "tasks", "mt10", "--help").out
    assert "KIND" in call("list", "tasks", "--help").out
    assert call("list", "tasks", "mt4", "--help").code == 2


def test_list_tasks_imports_code_that_the_settings_of_the_suite_name(tmp_path: Path) -> None:
    register = "from gymnasium.envs.registration import register\n"
    cart_pole = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
    (tmp_path / "listed_lane.py").write_text(f"{register}register('Lane-v0', '{cart_pole}', max_episode_steps=7)\n")
    (tmp_path / "listed_wrapper.py").write_text("def same(env):\n    return env\n")
    flags = ["--suite.import", "listed_lane", "--suite.wrappers", "listed_wrapper:same"]
    finished = call("list", "tasks", "gym:Lane-v0", *flags)
    assert finished.code == 0, finished.error
    assert re.search(r"Lane-v0 +7 ", finished.out)


def test_list_suites_shows_tasks_and_spaces_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def outline(name: str) -> Any:
        raise RuntimeError("no outline")

    monkeypatch.setenv("COLUMNS", "200")
    shown = call("list", "suites").out
    rows = {line.split()[0]: " ".join(line.split()) for line in shown.splitlines() if line.strip()}
    assert "3: reach-v3, drawer-close-v3, window-close-v3 (39,) float32 (4,) float32" in rows["mt3"]
    assert "57: alien, amidar, assault, asterix and 53 more (4, 84, 84) uint8 one of 18" in rows["atari57"]
    assert "any registered Gymnasium environments" in rows["gym:ENV,ENV"]
    assert rows["mt1-TASK"].endswith("e.g. mt1-reach")  # a pattern has no tasks
    monkeypatch.setattr(PointMass, "outline", outline)
    assert "(RuntimeError: no outline)" in call("list", "suites").out


def test_list_shows_classes_of_a_plugin(tmp_path: Path, own_architectures: dict[str, Any]) -> None:
    (tmp_path / "tiny_listed_module.py").write_text(LISTED)
    finished = call("list", "architectures", "--plugin", "tiny_listed_module")
    assert finished.code == 0
    assert re.search(r"^ tiny-listed +One linear +", finished.out, re.MULTILINE)
    assert re.search(r" 320 +0\.00 *$", finished.out, re.MULTILINE)  # 39 * 8 + 8 parameters
    assert "bias = True" in finished.out


def test_list_counts_parameters_and_operations_of_architectures_on_mt10() -> None:
    rows = [line.split() for line in call("list", "architectures").out.splitlines()]
    sizes = {row[0]: row[-2:] for row in rows if row}
    assert sizes["soft-modules"] == ["691,022", "1.38"]
    # Two operations for each weight of the layers and of the heads of all ten tasks.
    multi_head = 2 * ((39 + 10) * 400 + 2 * 400 * 400 + 10 * 400 * 8) / 1e6
    assert sizes["multi-head"] == ["372,880", f"{multi_head:.2f}"]


def test_a_plugin_that_cannot_be_made_is_listed_with_the_reason(own_architectures: dict[str, Any]) -> None:
    class Broken(MLP):
        """Fails."""

        def __init__(self, *arguments: object):
            raise RuntimeError("no luck")

    own_architectures["broken"] = Broken
    assert "luck)" in call("list", "architectures").out


def test_doctor_names_versions_licences_suites_and_broken_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    def diagnose(cls: type) -> Iterator[tuple[str, str]]:
        yield "rendering", "with crayons"
        raise RuntimeError("no more crayons")

    monkeypatch.setattr(PointMass, "diagnose", classmethod(diagnose))
    monkeypatch.setattr(PointMass, "packages", ("pluggy", "no-such-package"))
    finished = call("doctor", "--plugin", "no_such_module")
    assert finished.code == 0
    text = " ".join(finished.out.split())
    for fragment in (
        *("python", "torch threads", "bfloat16", "MIT", "agents:register", "--plugin no_such_module broken"),
        *("with crayons", "broken: RuntimeError: no more crayons", "gym registered"),
    ):
        assert fragment in text
    assert re.search(r"pluggy +[0-9.]+ +MIT +for suite point-mass", finished.out)
    assert re.search(r"no-such-package +missing +for suite point-mass", finished.out)


def test_doctor_works_without_home_user_entry_affinity_and_memory_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise KeyError("uid")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", fail)
    monkeypatch.setattr(os, "sysconf", fail)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    finished = call("doctor")
    assert (finished.code, finished.error) == (0, "")
    assert re.search(r"memory +unknown \(KeyError: 'uid'\)", finished.out)
