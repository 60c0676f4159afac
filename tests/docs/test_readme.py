"""The plug-in example, the commands and the flags of the README and the pages in docs."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

import agents
import envs
import mtrl
from mtrl.agent import agent_types
from mtrl.aggregation import aggregators
from mtrl.auxiliary import auxiliary_tasks
from mtrl.cli.commands.relations import RelationsSettings
from mtrl.cli.main import main
from mtrl.config.schema import RunSettings
from mtrl.encoders import encoders
from mtrl.env.suite import suites
from mtrl.networks import architectures
from mtrl.normalization import normalizers
from mtrl.policies import policies
from mtrl.registry import Registry
from mtrl.relations.run_relations import MeasureSettings
from mtrl.scheduling import schedulers
from mtrl.testing import check_auxiliary
from mtrl.training.load import TrainedAgent
from tests.fresh_process import run_fresh

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text()
# Guides are run by tests of their own; measuring has the flags of scripts, and one page those of other libraries.
NOT_OURS = ("agent.md", "measuring.md", "other-libraries.md", "plug-in.md", "suite.md")
PAGES = {
    path.name: path.read_text()
    for path in (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))
    if path.name not in NOT_OURS
}
COMMANDS = sorted(
    {
        line.removeprefix("$ ").partition(" #")[0].strip()
        for text in PAGES.values()
        for line in text.splitlines()
        if line.startswith("$ mtrl train")
    }
)
REGISTRIES: dict[str, Registry] = {
    "suite": suites,
    "agent": agent_types,
    "architecture": architectures,
    "policy": policies,
    "encoder": encoders,
    "aggregator": aggregators,
    "scheduler": schedulers,
    "normalizer": normalizers,
    "auxiliary": auxiliary_tasks,
}
COMMAND_FLAGS = {
    "config",
    "resume",
    "run-dir",
    "print-config",
    "match-params",
    "plugin",
    "help",
    "seeds",
    "jobs",
    "overwrite",
}
EVALUATION_FLAGS = {"episodes-per-task", "checkpoint", "video", "weights", "output", "policy-part"}
REPORT_FLAGS = {"csv", "png"}
TORCHRUN_FLAGS = {"nproc-per-node"}
EXPORT_FLAGS = {"format", "license", "repo-id", "private"}
RELATIONS_FLAGS = {field.name for cls in (RelationsSettings, MeasureSettings) for field in fields(cls)}
SWEEP_FLAGS = {"dry-run", "engine", "ray-address", "retry-failed", "search", "trials"}


def between(name: str) -> str:
    """The fenced block between a pair of comments of the README."""
    block = README.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0]
    match = re.search(r"```\w+\n(.*?)```", block, re.DOTALL)
    assert match is not None
    return match[1]


def known_flags() -> set[str]:
    """Every flag of the verbs, of all registered classes."""
    agents.register()
    envs.register()
    names = {
        *REGISTRIES,
        *COMMAND_FLAGS,
        *EVALUATION_FLAGS,
        *REPORT_FLAGS,
        *TORCHRUN_FLAGS,
        *EXPORT_FLAGS,
        *RELATIONS_FLAGS,
        *SWEEP_FLAGS,
        *(field.name for field in fields(RunSettings)),
    }
    for group, registry in REGISTRIES.items():
        for cls in registry.classes():
            own = [field.name for field in fields(cls.Config)]  # type: ignore[attr-defined]
            of_class = f"{group}.{registry.name_of(cls)}" if group == "auxiliary" else group
            names |= {f"{of_class}.{prefix}{name}" for name in own for prefix in ("", "no-")}
    # Of a class of one's own, or of any.
    names |= {"auxiliary.NAME.SETTING", "auxiliary.NAME.gate", "auxiliary.Ending.coefficient"}
    # A parameter group may have an aggregator of its own.
    of_aggregators = {name.partition(".")[2] for name in names if name.startswith("aggregator.")}
    for parameter_group in {name for cls in agent_types.classes() for name in cls.group_gauges}:
        names |= {f"aggregator.{parameter_group}", *(f"aggregator.{parameter_group}.{name}" for name in of_aggregators)}
    return {f"--{name.replace('_', '-').rstrip('-')}" for name in names}


def test_the_plugin_example_is_checked_trained_and_evaluated(tmp_path: Path) -> None:
    (tmp_path / "film.py").write_text(between("example"))
    commands = [line.removeprefix("$ ") for line in between("example-commands").splitlines()]
    assert len(commands) == 3
    for command in commands:
        result = run_fresh(*shlex.split(command), folder=tmp_path)
        assert result.returncode == 0, f"{command}\n{result.stderr}"
    assert "mean return" in result.stdout


@pytest.mark.parametrize("name", PAGES)
def test_every_flag_that_a_page_names_exists(name: str) -> None:
    named = set(re.findall(r"(?<![\w<-])--[a-z][a-z.-]*[a-z]", re.sub(r"<!--.*?-->", "", PAGES[name])))
    assert named <= known_flags(), sorted(named - known_flags())


# The others need a run or a file, or are run above.
@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if not re.search(r"--resume|--config|--help|film:|next_task:", command)]
)
def test_a_training_command_is_accepted(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*shlex.split(command)[1:], "--print-config"]) == 0, capsys.readouterr().err
    assert "suite:" in capsys.readouterr().out


@pytest.mark.parametrize("group", [group for group in REGISTRIES if group != "suite"])
def test_every_class_is_named_on_a_page(group: str) -> None:
    agents.register()
    text = "".join(PAGES.values())
    assert [name for name in REGISTRIES[group].names() if f"`{name}`" not in text and ":" not in name] == []


def test_the_example_of_the_page_on_auxiliary_tasks_keeps_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"`next_task.py` in any folder:\n\n```python\n(.*?)```", PAGES["auxiliary.md"], re.DOTALL)
    (tmp_path / "next_task.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    check_auxiliary(importlib.import_module("next_task").Ending)


def test_the_python_example_calls_what_exists() -> None:
    (block,) = [text for text in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "mtrl.load" in text]
    calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    called = {"mtrl.train", "run.evaluate", "mtrl.load_metrics", "mtrl.load", "trained.predict"}
    assert {ast.unparse(call.func) for call in calls} == called
    assert {"suite", "agent", "run_dir", "settings"} <= set(inspect.signature(mtrl.train).parameters)
    assert {"run_dir"} <= set(inspect.signature(mtrl.load_metrics).parameters)
    assert {"run_dir", "checkpoint"} <= set(inspect.signature(mtrl.load).parameters)
    inspect.signature(TrainedAgent.predict).bind(None, "observation", "reach-v3")
