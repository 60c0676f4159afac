"""A fault in a plug-in's code is the plug-in's: exit code 2 and one line with its class, its file and the exception."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import agents
import envs
from mtrl.api.plugins import check_chosen_plugins
from mtrl.config.schema import resolve_config
from mtrl.faults import named_plugin_faults
from mtrl.registry import trust_module
from mtrl.training import run
from mtrl.training.evaluate import evaluate
from tests.training.tiny_runs import LAST_WORDS, differences, final_state, in_child

SAC: dict[str, Any] = {"name": "sac", "batch_size": 16, "learning_starts": 40}
PPO: dict[str, Any] = {"name": "ppo", "rollout_steps": 8, "minibatches": 1, "epochs": 1}
SOURCE = Path(__file__).with_name("faulty_plugins.py")
MODULE = "their_plugins"

RAISED = r"raised LookupError: no such"
SUPER = r"super\(\).__init__ of \w+ takes the constructor's arguments"
PLUGIN_FAULTS = [
    ("architecture", "RaisesInInit", RAISED),
    ("architecture", "RaisesInForward", RAISED),
    ("architecture", "RaisesLater", RAISED),
    ("architecture", "RaisesInALayer", r"plug-in Layer .* raised RuntimeError: mat1 and mat2"),
    ("architecture", "Exits", r"raised SystemExit: 0"),
    ("architecture", "StopsIteration", r"raised StopIteration"),
    ("architecture", "ForgetsSuper", SUPER),
    ("architecture", "ForgetsSuperBeforeLayers", r"raised AttributeError: cannot assign module before"),
    ("architecture", "CallsSuperWithoutArguments", r"raised TypeError: .*missing 4 required positional arguments"),
    ("architecture", "CallsModuleInit", rf"has out_features = None after __init__, expected int; {SUPER}"),
    ("architecture", "OtherSignature", r"raised TypeError: .*takes 2 positional arguments but 5 were given"),
    ("architecture", "NoForward", r"raised NotImplementedError|missing the required \"forward\""),
    ("architecture", "Abstract", r"raised TypeError: Can't instantiate abstract class"),
    ("architecture", "ReturnsNone", r"returned NoneType from forward, expected a tensor or an Output"),
    ("architecture", "ReturnsTuple", r"returned tuple from forward"),
    ("architecture", "ReturnsTupleInOutput", r"returned tuple from forward"),
    ("architecture", "ReturnsDoubles", r"returned \(\d+, \d\) torch.float64 from forward, expected \(\d+, \d\) torch"),
    ("architecture", "ReturnsOneColumn", r"returned \(\d+, 1\) torch.float32 from forward, expected \(\d+, [24]\)"),
    ("architecture", "ReturnsAnotherShapeLater", r"returned \(\d+, 1\) torch.float32 from forward"),
    ("architecture", "FlattensValues", r"returned \(\d+,\) torch.float32 from forward, expected \(\d+, 1\)"),
    ("architecture", "BadValueConfig", r"raised AttributeError: 'Config' object has no attribute 'no_such_field'"),
    ("encoder", "EncoderRaises", RAISED),
    ("encoder", "EncoderOfAnotherSize", r"returned \(\d+, 1\) torch.float32 from forward, expected \(\d+, 2\)"),
    ("encoder", "EncoderWithoutSize", r"has out_features = \(2,\) after __init__, expected int"),
    ("policy", "PolicyReturnsDistribution", r"returned \w+Gaussian from forward, expected a PolicyOutput"),
    ("aggregator", "AggregatorForgetsAGradient", r"left no gradient at \S*weight"),
    ("aggregator", "AggregatorReturnsNone", r"returned NoneType from backward, expected TaskLosses"),
    ("aggregator", "AggregatorRaises", RAISED),
    ("aggregator", "AggregatorWithoutSuper", SUPER),
    ("scheduler", "SchedulerRaises", RAISED),
    ("scheduler", "SchedulerWithoutSuper", SUPER),
    ("scheduler", "SchedulerOfAnotherShape", r"returned shape \(1,\) from weights, expected shares of 4 tasks"),
    ("scheduler", "SchedulerOfNaN", r"returned \[nan, nan, nan, nan\] from weights"),
    ("scheduler", "SchedulerOfLists", r"returned list from weights, expected an array"),
    ("normalizer", "NormalizerRaises", RAISED),
    ("normalizer", "NormalizerOfAnotherShape", r"returned \(2, 4, 1\) from denormalize, expected \(2, 4\)"),
    ("agent", "AgentRaises", RAISED),
    ("agent", "AgentActsInOneDimension", r"returned actions \(8,\), expected actions \(8, 2\)"),
    ("agent", "AgentReturnsNone", r"returned NoneType from update, expected a dict of metrics"),
    ("agent", "AgentOfAnotherMetric", r"returned the metric 'histogram' of shape \(101,\) from update, expected"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the project that holds the plug-ins."""
    folder = tmp_path_factory.mktemp("theirs")
    shutil.copy(SOURCE, folder / f"{MODULE}.py")
    torch.optim.Adam([torch.zeros(1)])  # imports a lot, which the children then need not
    return folder


def train(folder: Path, run_dir: Path, group: str, name: str, **changes: Any) -> int:
    """Trains with the plug-in in a child process; returns the exit code."""
    LAST_WORDS.unlink(missing_ok=True)

    def action() -> int:
        agents.register()
        envs.register()
        os.chdir(folder)
        trust_module(MODULE)
        document: dict[str, Any] = {
            "suite": "point-mass",
            "agent": SAC,
            "architecture": {"name": "mlp", "width": 8, "depth": 1},
            "num_envs": 8,
            "num_workers": 0,
            "torch_threads": 1,
            "total_env_steps": 1200,
            "eval_interval": 0,
            "final_eval_episodes_per_task": 0,
            "check_plugins": False,
        }
        plugin: dict[str, Any] = {"name": f"{MODULE}:{name}"}
        if group == "agent":
            plugin = {**SAC, **plugin}
        with named_plugin_faults():
            config = resolve_config(document | {group: plugin} | changes)
            if config.settings.check_plugins:
                check_chosen_plugins(config)
            return run.train(config, run_dir)

    return in_child(action)


def last_words() -> str:
    return LAST_WORDS.read_text() if LAST_WORDS.exists() else ""


@pytest.mark.parametrize(("group", "name", "message"), PLUGIN_FAULTS, ids=[name for _, name, _ in PLUGIN_FAULTS])
def test_a_fault_of_a_plugin_is_named_as_its_own(
    folder: Path, tmp_path: Path, group: str, name: str, message: str
) -> None:
    code = train(folder, tmp_path / "run", group, name)
    assert code == 2, last_words()
    assert re.search(message, last_words()), last_words()
    assert last_words().startswith("plug-in ")
    assert f"{folder / MODULE}.py:" in last_words()
    if message == RAISED or "returned" in message:
        assert name in last_words()
    meta = tmp_path / "run" / "meta.json"
    assert not meta.exists() or '"exit_code": 2' in meta.read_text()


@pytest.mark.parametrize(
    "name", ["RaisesInForward", "RaisesLater", "ReturnsOneColumn", "ReturnsTuple", "ReturnsDoubles", "FlattensValues"]
)
def test_ppo_takes_no_output_that_would_be_broadcast(folder: Path, tmp_path: Path, name: str) -> None:
    assert train(folder, tmp_path / "run", "architecture", name, agent=PPO) == 2
    assert f"plug-in {name}" in last_words()


def test_the_line_is_the_one_that_raised(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "run", "architecture", "RaisesInForward")
    line = 1 + next(number for number, text in enumerate(SOURCE.read_text().splitlines()) if "# here" in text)
    place = f"{folder / MODULE}.py:{line}"
    assert last_words() == f"plug-in RaisesInForward ({place}) raised LookupError: no such layer"


@pytest.mark.parametrize(
    ("group", "name", "message"),
    [
        (
            "architecture",
            "EncoderRaises",
            "EncoderRaises is no PolicyArchitecture (its base is Identity)",
        ),
        ("scheduler", "Sound", "is no TaskScheduler"),
        ("encoder", "Sound", "is no Encoder"),
        ("architecture", "NoDataclass", "has no nested dataclass Config"),
    ],
)
def test_a_class_that_cannot_be_what_it_is_named_for_is_refused(
    folder: Path, tmp_path: Path, group: str, name: str, message: str
) -> None:
    assert train(folder, tmp_path / "run", group, name) == 2
    assert message in last_words()
    assert not (tmp_path / "run").exists()


REFUSED_BY_THE_CHECK = [
    ("architecture", "PlainList", "same state_dict gives other outputs"),
    ("architecture", "Dropout", "the same inputs give another output"),
    ("architecture", "BatchStatistics", "a row gets another output alone than in a batch"),
    ("architecture", "WritesItsInput", "forward changes its inputs in place"),
    ("architecture", "OwnNumbers", "the same inputs give another output"),
    ("architecture", "ReturnsOneColumn", "from forward, expected"),
    ("aggregator", "AggregatorForgetsAGradient", "backward leaves no gradient at 'weight'"),
    ("scheduler", "SchedulerOfNaN", "weights() gives [nan"),
]


@pytest.mark.parametrize(("group", "name", "message"), REFUSED_BY_THE_CHECK)
def test_a_class_that_breaks_its_contract_is_refused_before_training(
    folder: Path, tmp_path: Path, group: str, name: str, message: str
) -> None:
    assert train(folder, tmp_path / "run", group, name, check_plugins=True) == 2
    assert last_words().startswith(f"{group} '{MODULE}:{name}': {MODULE}.{name}")
    assert message in last_words()
    assert "--no-check-plugins" in last_words()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["RaisesInInit", "RaisesInForward", "Exits", "ForgetsSuper", "OtherSignature"])
def test_a_fault_that_the_check_meets_is_named_like_one_of_the_run(folder: Path, tmp_path: Path, name: str) -> None:
    assert train(folder, tmp_path / "run", "architecture", name, check_plugins=True) == 2
    assert last_words().startswith(f"plug-in {name} ({folder / MODULE}.py:")
    assert not (tmp_path / "run").exists()


def test_without_the_check_what_it_refuses_is_trained(folder: Path, tmp_path: Path) -> None:
    assert train(folder, tmp_path / "run", "architecture", "Dropout", total_env_steps=80) == 0


def test_the_check_changes_no_bit_of_the_run(folder: Path, tmp_path: Path) -> None:
    for check in (True, False):
        run_dir = tmp_path / str(check)
        assert train(folder, run_dir, "architecture", "Sound", check_plugins=check, total_env_steps=400) == 0
    assert not differences(final_state(tmp_path / "True"), final_state(tmp_path / "False"))


@pytest.mark.parametrize("name", ["OneHot", "CountsTasks"])
def test_an_architecture_that_vmap_refuses_trains_on_task_slices(folder: Path, tmp_path: Path, name: str) -> None:
    changes: Mapping[str, Any] = {"aggregator": "pcgrad", "check_plugins": True, "total_env_steps": 80}
    assert train(folder, tmp_path / "run", "architecture", name, **changes) == 0, last_words()


@pytest.mark.parametrize("verb", ["evaluate", "resume"])
def test_what_was_trained_with_sound_code_may_meet_a_fault_of_the_next_version(
    folder: Path, tmp_path: Path, verb: str
) -> None:
    run_dir = tmp_path / "run"
    assert train(folder, run_dir, "architecture", "Sound", total_env_steps=80) == 0
    (tmp_path / f"{MODULE}.py").write_text(SOURCE.read_text() + "\n\nSound.forward = RaisesInForward.forward\n")

    def action() -> int:
        agents.register()
        envs.register()
        os.chdir(tmp_path)
        trust_module(MODULE)
        if verb == "evaluate":
            evaluate(run_dir, episodes_per_task=1, plugins=[MODULE])
            return 0
        return run.resume(run_dir, {"total_env_steps": 160}, [MODULE])

    assert in_child(action) == 2
    assert last_words().startswith(f"plug-in Sound ({tmp_path / MODULE}.py:")


def test_a_fault_of_a_class_of_the_suite_stays_ours(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agents.sac import SAC as OurSAC

    def broken(self: Any, batch: Any) -> Any:
        raise LookupError("ours")

    monkeypatch.setattr(OurSAC, "learn", broken)
    assert train(folder, tmp_path / "run", "architecture", "Sound") == 70
    assert last_words() == "ours"
