"""Flags of dataclass fields: what they are called, how values are read, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import PositiveInt

from mtrl.cli.flags import FlagParser
from mtrl.errors import BadInput
from tests.cli.commands import assert_refused, call


@dataclass(frozen=True)
class Base:
    depth: int = 3  # hidden layers


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5  # per step


@dataclass(frozen=True)
class Settings(Base):
    batch_size: PositiveInt | None = None  # transitions; 100% of them
    label: str = "a"  # free text
    kind: Literal["none", "1"] = "none"  # a choice
    layer_norm: bool = False  # before each ReLU
    widths: tuple[int, ...] = (400, 400)  # units
    names: tuple[str, ...] = ()  # of tasks
    weights: tuple[float, ...] | dict[str, float] | None = None  # by task
    inner: Inner = Inner()


def parse(line: str) -> dict[str, Any]:
    parser = FlagParser("test")
    parser.add_settings(Settings, Settings(), parser.add_argument_group("agent 'x'"), "agent")
    return parser.parse(line.split()).get("agent", {})


@pytest.mark.parametrize(
    ("line", "document"),
    [
        ("", {}),
        ("--agent.batch-size 64", {"batch_size": 64}),
        ("--agent.batch_size=64 --agent.batch-size 65", {"batch_size": 65}),
        ("--agent.batch-size 1e6", {"batch_size": 1_000_000}),
        ("--agent.batch-size 1.5e0", {"batch_size": 1.5}),
        ("--agent.batch-size None", {"batch_size": None}),
        ("--agent.batch-size null", {"batch_size": None}),
        ("--agent.batch-size many", {"batch_size": "many"}),
        ("--agent.depth -1", {"depth": -1}),
        ("--agent.label 1e5", {"label": "1e5"}),
        ("--agent.label None", {"label": "None"}),
        ("--agent.kind 1", {"kind": "1"}),
        ("--agent.layer-norm", {"layer_norm": True}),
        ("--agent.layer-norm --agent.no-layer-norm", {"layer_norm": False}),
        ("--agent.widths 1 2", {"widths": [1, 2]}),
        ("--agent.widths", {"widths": []}),
        ("--agent.names 1 b", {"names": ["1", "b"]}),
        ("--agent.weights 1 2", {"weights": [1, 2]}),
        ("--agent.weights reach-v3 3 push_v3 1.5", {"weights": {"reach-v3": 3, "push_v3": 1.5}}),
        ("--agent.weights None", {"weights": None}),
        ("--agent.inner.rate 0.25", {"inner": {"rate": 0.25}}),
    ],
)
def test_flags_become_the_document_that_yaml_would_hold(line: str, document: dict[str, Any]) -> None:
    assert parse(line) == document


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        ("--agent.batch-size", "--agent.batch-size: expected one argument"),
        ("--agent.batch 3", "unknown flag '--agent.batch' of agent 'x'"),
        ("--agent.batch-sise 3", "did you mean '--agent.batch-size'"),
        ("--agent.bs 3", "did you mean '--agent.batch-size'"),
        ("--batch-size 3", "did you mean '--agent.batch-size'"),
        ("--agent.layer-norm=yes", "--agent.layer-norm"),
        ("--agent.layer-norm yes", "unexpected argument 'yes'"),
        ("--agent.weights a 1 b", "pairs of a name and a value"),
        ("-x", "unknown flag '-x'"),
    ],
)
def test_what_is_no_flag_is_refused_with_a_hint(line: str, fragment: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse(line)
    assert fragment in str(refused.value)


def test_help_has_the_comment_what_is_allowed_and_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    for fragment in (
        "agent 'x':",
        "--agent.batch-size INT transitions; 100% of them [an integer above 0 or None; default: None]",
        "--agent.depth INT hidden layers [an integer; default: 3]",
        "--agent.kind {none,1} a choice [default: none]",
        "--agent.layer-norm, --agent.no-layer-norm before each ReLU [default: False]",
        "units [a list, each an integer; default: 400 400]",
        "--agent.inner.rate FLOAT per step",
    ):
        assert fragment in text


def test_help_of_train_begins_with_ten_common_flags_and_ends_with_those_of_the_chosen_classes() -> None:
    finished = call("train", "--suite", "mt3", "--architecture", "mlp", "--help")
    assert finished.code == 0
    common, *others = finished.out.partition("common:\n")[2].split("\n\n")
    assert common.count("\n  --") + common.startswith("  --") == 10
    titles = [group.partition(":\n")[0] for group in others]
    assert titles[:5] == ["other classes", "run", "suite 'mt3'", "agent 'sac'", "architecture 'mlp'"]
    text = " ".join(finished.out.split())
    assert "--suite.reward-function {v1,v2}" in text
    assert "transitions per update" in text
    assert "multi-head" in text


@pytest.mark.parametrize(
    ("line", "fragments"),
    [
        ("train --agnt sac", ["'--agnt'", "did you mean '--agent'"]),
        ("train --agent.lr 3", ["'--agent.lr'", "of agent 'sac'", "'--agent.learning-rate'"]),
        ("train --sede 3", ["did you mean '--seed'"]),
        ("train --steps 3", ["did you mean '--total-env-steps'"]),
        ("train --agent.batch-size 0", ["agent.batch_size: 0 is not allowed; must be an integer at least 1"]),
        ("train --agent.batch-size many", ["agent.batch_size: 'many' is not allowed; must be an integer"]),
        ("train --agent.batch-size=1.5e0", ["agent.batch_size: 1.5 is not allowed; must be an integer"]),
        ("train --agent.batch-size", ["--agent.batch-size"]),
        ("train --agent.discount .nan", ["agent.discount", "nan", "at least 0 and at most 1"]),
        ("train --max-hours .inf", ["max_hours", "inf", "finite"]),
        ("train --seed -1", ["seed", "-1"]),
        ("train --device gpu", ["device: 'gpu'", "'auto', 'cpu', 'cuda'"]),
        ("train --suite point-mass --device cpu --cuda-graphs", ["cuda_graphs needs a GPU"]),
        ("train --match-params soft-modules", ["match_params", "'multi-head'", "--architecture mlp"]),
        ("train --architecture mlp --architecture.width=3 --match-params mmoe", ["--architecture.width", "sets"]),
        ("train --architecture mlp --match-params soft-module", ["'soft-module'", "did you mean 'soft-modules'"]),
        ("train --suite mt100", ["'mt100'", "did you mean 'mt10'", "mtrl list suites"]),
        ("train --suite", ["--suite"]),
        ("train --suite --seed 3", ["--suite"]),
        ("train --agent sacc", ["'sacc'", "did you mean 'sac'"]),
        ("train --architecture nothing", ["'nothing'", "MODULE:Class"]),
        ("train --architecture no_such_module:Tiny", ["'no_such_module'", "cannot be imported"]),
        ("train --architecture ./film.py:FiLM", ["'./film.py' is a file", "film:Class"]),
        ("train --architecture folder/film.py", ["'folder/film.py' is a file", "film:Class"]),
        ("train --plugin film.py", ["'film.py' is a file", "--plugin film"]),
        ("train --plugin no_such_module", ["'no_such_module'", "cannot be imported"]),
        ("train --plugin .", ["'.'", "cannot be imported"]),
        ("train --plugin mtrl --architecture mtrl", ["mtrl:Class"]),
        ("train --plugin mtrl --architecture mtrl:", ["mtrl:Class"]),
        ("train --plugin mtrl --architecture mtrl:Missing", ["'mtrl'", "has no class 'Missing'"]),
        ("train word", ["'word'"]),
        ("train --overwrite yes", ["'yes'"]),
        ("train --record-losses", ["'--record-losses'"]),
        ("train --steps 5", ["did you mean '--total-env-steps'"]),
        ("train --agent.lr 3e-4", ["did you mean '--agent.learning-rate'"]),
        ("train --task reach", ["did you mean '--suite'"]),
        ("train --n-envs 4", ["did you mean '--num-envs'"]),
        ("train --hidden-size 256", ["did you mean '--architecture.width'"]),
        ("train --agent ppo --agent.n-steps 5", ["did you mean '--agent.rollout-steps'"]),
        ("train --config missing.yaml", ["missing.yaml", "No such file"]),
        ("train --config .", ["directory"]),
        ("train --resume missing", ["missing", "does not exist"]),
        ("train --resume . --seed 3", ["'--seed' cannot be combined with --resume", "mtrl train --resume --help"]),
        ("train --resume . --agent.batch-size 3", ["--agent.batch-size", "--resume"]),
        ("train --resume . --config x.yaml", ["--config", "--resume"]),
        ("train --resume . --overwrite", ["--overwrite", "--resume"]),
        ("train --resume .", ["'.'", "config.yaml"]),
        ("train --run-dir a\0b", ["cannot be a run directory"]),
        ("eval", ["RUN"]),
        ("eval missing", ["missing", "does not exist"]),
        ("eval . --checkpoint newest", ["'newest'", "best, latest or a step"]),
        ("eval . --episodes-per-task 0", ["episodes_per_task", "0"]),
        ("eval . extra", ["'extra'"]),
        ("list architecture", ["'architecture'", "did you mean 'architectures'"]),
        ("list agents mt3", ["'mt3'"]),
        ("list tasks", ["mtrl list tasks SUITE"]),
        ("list tasks mt4", ["'mt4'"]),
        ("doctor --verbose", ["'--verbose'"]),
    ],
)
def test_wrong_flags_are_one_line_and_exit_code_2(line: str, fragments: list[str], tmp_path: Path) -> None:
    assert_refused(call(*line.split(" ")), *fragments)
    assert list(tmp_path.iterdir()) == []
