"""The command line: quick help, one line and exit code 2 for whatever is wrong, and what reaches `mtrl.training.run`."""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import agents
import envs
import mtrl.training.run
from mtrl import registry
from mtrl.agent import agent_types
from mtrl.training.build import build_agent, build_suite
from mtrl.cli.main import MAX_LINE, main
from mtrl.config.schema import dump_yaml, parse_yaml, resolve_config
from mtrl.errors import BadInput, Diverged, StorageFailure, WorkerFailure
from mtrl.networks.size import num_parameters
from mtrl.env.suite import suites

HEAVY = (
    "torch",
    "gymnasium",
    "pydantic",
    "numpy",
    "tyro",
    "rich",
    "yaml",
    "mujoco",
    "metaworld",
    "ale_py",
    "safetensors",
)

TINY = """
from dataclasses import dataclass
from torch import nn
from mtrl.networks import PolicyArchitecture

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


@dataclass
class Finished:
    code: int
    out: str
    error: str


Call = Callable[..., Finished]


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, the plug-ins of this project, and nothing trusted yet."""
    agents.register()
    envs.register()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_trusted_modules", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("COLUMNS", "100")
    for family in suites.classes():  # a server of workers would outlive the test
        monkeypatch.setattr(family, "warm_up", classmethod(lambda cls: None))


def call(*arguments: str) -> Finished:
    """The command in this process."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = main(arguments)
    return Finished(code, out.getvalue(), error.getvalue())


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mtrl", *arguments], capture_output=True, text=True, timeout=60, **options
    )


def assert_refused(finished: Finished | subprocess.CompletedProcess[str], *fragments: str) -> None:
    code = finished.code if isinstance(finished, Finished) else finished.returncode
    error = finished.error if isinstance(finished, Finished) else finished.stderr
    assert code == 2, error
    assert error.startswith("error: ")
    assert error.endswith("\n")
    assert error[:-1].isprintable(), error
    assert len(error) <= MAX_LINE + 1
    assert "Traceback" not in error
    for fragment in fragments:
        assert fragment in error


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `mtrl.training.run` would have been asked to do."""
    seen: dict[str, Any] = {}

    def note(verb: str) -> Callable[..., int]:
        def noted(*positional: Any, **named: Any) -> int:
            seen[verb] = (positional, named)
            return 0

        return noted

    for verb in ("train", "resume", "evaluate"):
        monkeypatch.setattr(mtrl.training.run, verb, note(verb))
    return seen


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory with a configuration and nothing else."""
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_yaml(resolve_config({"suite": "point-mass", "seed": 5})))
    return folder


# Help.


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        f"import sys, mtrl.cli.main; code = mtrl.cli.main.main({arguments}); "
        f"print([module for module in {HEAVY} if module in sys.modules], code)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines()[-1] == f"[] {0 if arguments else 2}"
    assert "mtrl" in result.stdout


def test_suites_are_known_before_torch_is_imported() -> None:
    script = (
        "import sys, mtrl.registry as r, mtrl.env.suite as s; next(r.plugins_one_by_one());"
        "print('torch' in sys.modules, s.find_suite('mt10').__name__, 'metaworld' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == ["False", "MetaWorld", "False"]


def test_help_of_train_lists_the_flags_of_the_chosen_classes_with_their_comments() -> None:
    finished = call("train", "--suite", "mt3", "--architecture", "mlp", "--help")
    assert finished.code == 0
    text = " ".join(finished.out.split())
    for fragment in (
        "--agent.batch-size",
        "transitions per update",
        "--architecture.task-input",
        "--suite.reward-function {v1,v2}",
        "--total-env-steps INT",
        "steps of single environments in the whole run",
        "Settings of architecture mlp.",
    ):
        assert fragment in text
    assert "multi-head" in call("train", "--help").out


@pytest.mark.parametrize("verb", ["eval", "list", "doctor", "train --resume x"])
def test_every_verb_has_help(verb: str) -> None:
    finished = call(*verb.split(), "--help")
    assert finished.code == 0
    assert f"usage: mtrl {verb.removesuffix(' x')}" in finished.out


# Refusals.


@pytest.mark.parametrize(
    ("line", "fragments"),
    [
        ("trian", ["'trian'", "did you mean 'train'", "eval"]),
        ("train --agnt sac", ["'--agnt'", "did you mean '--agent'"]),
        ("train --agent.batch-sise 3", ["'--agent.batch-sise'", "of agent 'sac'", "'--agent.batch-size'"]),
        ("train --batch-size 3", ["'--batch-size'", "'--agent.batch-size'"]),
        ("train --agent.batch-size 0", ["agent.batch_size", "0", "an integer at least 1"]),
        ("train --agent.batch-size many", ["--agent.batch-size", "'many'", "an integer at least 1"]),
        ("train --agent.batch-size=many", ["--agent.batch-size", "'many'", "an integer at least 1"]),
        ("train --agent.batch-size", ["--agent.batch-size", "missing", "an integer at least 1"]),
        ("train --agent.discount nan", ["agent.discount", "nan", "at least 0 and at most 1"]),
        ("train --max-hours inf", ["max_hours", "inf", "finite"]),
        ("train --seed -1", ["seed", "-1"]),
        ("train --seed 2e6", ["--seed", "'2e6'", "an integer"]),
        ("train --device gpu", ["--device", "'gpu'", "'auto', 'cpu', 'cuda'"]),
        ("train --suite point-mass --device cpu --cuda-graphs", ["cuda_graphs needs a GPU"]),
        ("train --match-params soft-modules", ["match_params", "'multi-head'", "--architecture mlp"]),
        ("train --architecture mlp --architecture.width=3 --match-params mmoe", ["--architecture.width", "sets"]),
        ("train --architecture mlp --match-params soft-module", ["'soft-module'", "did you mean 'soft-modules'"]),
        ("train --suite mt100", ["'mt100'", "did you mean 'mt10'"]),
        ("train --suite", ["--suite", "missing"]),
        ("train --suite --seed 3", ["--suite", "missing"]),
        ("train --agent sacc", ["'sacc'", "did you mean 'sac'"]),
        ("train --architecture no_such_module:Tiny", ["'no_such_module'", "cannot be imported"]),
        ("train --plugin no_such_module", ["'no_such_module'", "cannot be imported"]),
        ("train --plugin .", ["'.'", "cannot be imported"]),
        ("train --plugin mtrl --architecture mtrl:Missing", ["'mtrl'", "has no class 'Missing'"]),
        ("train word", ["'word'"]),
        ("train --overwrite yes", ["'yes'"]),
        ("train --config missing.yaml", ["missing.yaml", "No such file"]),
        ("train --config .", ["directory"]),
        ("train --resume missing", ["missing", "no such run directory"]),
        ("train --resume . --seed 3", ["--seed", "--resume", "--total-env-steps"]),
        ("train --resume . --agent.batch-size 3", ["--agent.batch-size", "--resume"]),
        ("train --resume . --config x.yaml", ["--config", "--resume"]),
        ("train --resume . --total-env-steps 0", ["total_env_steps", "0"]),
        ("train --resume . --overwrite", ["--overwrite", "--resume"]),
        ("train --resume .", ["not a run directory", "config.yaml"]),
        ("train --tyro-write-completion bash file", ["'--tyro-write-completion'"]),
        ("train --run-dir a\0b", ["null"]),
        ("eval", ["RUN"]),
        ("eval missing", ["missing", "no such run directory"]),
        ("eval . --checkpoint newest", ["'newest'", "best, latest or a step"]),
        ("eval . --episodes-per-task 0", ["episodes_per_task", "0"]),
        ("eval . extra", ["'extra'"]),
        ("list architecture", ["'architecture'", "did you mean 'architectures'"]),
        ("doctor --verbose", ["'--verbose'"]),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(line: str, fragments: list[str], tmp_path: Path) -> None:
    children = psutil.Process().children()
    assert_refused(call(*line.split(" ")), *fragments)
    assert psutil.Process().children() == children
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    for text, fragment in {
        "agent: {batch_size: 0}": "agent.batch_size",
        "seed: 1\nseed: 2": "line 2",
        "seed: [": "run.yaml",
        "plugins: [canary]": "--plugin canary",
    }.items():
        path.write_text(text)
        assert_refused(call("train", "--config", str(path)), fragment)


def test_control_characters_never_reach_the_terminal() -> None:
    assert_refused(call("train", "--agent", "\x1b[2J\u202e\n" + "x" * 1000), r"\x1b[2J\u202e\n")
    assert_refused(call("\x07"), r"\x07")


def test_an_existing_run_directory_is_refused_unless_overwritten(
    run_dir: Path, tmp_path: Path, handed_over: dict[str, Any]
) -> None:
    train = ["train", "--suite", "point-mass", "--run-dir"]
    assert_refused(call(*train, str(run_dir)), "--overwrite", f"--resume {run_dir}")
    assert call(*train, str(run_dir), "--overwrite").code == 0
    assert handed_over["train"][1] == {"overwrite": True}
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    assert call(*train, str(foreign)).code == 0
    (foreign / "thesis.tex").touch()
    assert_refused(call(*train, str(foreign), "--overwrite"), "no run")


@pytest.mark.parametrize(
    ("error", "code"),
    [(Diverged("loss"), 3), (WorkerFailure("slot 3"), 4), (StorageFailure("full"), 5), (BadInput("x"), 2)],
)
def test_errors_of_a_run_have_their_exit_codes(error: Exception, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> int:
        raise error

    monkeypatch.setattr(mtrl.training.run, "train", fail)
    finished = call("train", "--suite", "point-mass")
    assert (finished.code, finished.error) == (code, f"error: {error}\n")


def test_interrupting_the_command_gives_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(mtrl.training.run, "train", interrupt)
    assert call("train", "--suite", "point-mass").code == 130


def test_a_bug_leaves_its_traceback_in_the_run_directory(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> int:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr(mtrl.training.run, "resume", fail)
    finished = call("train", "--resume", str(run_dir))
    assert finished.code == 70
    assert finished.error.count("\n") == 1
    [report] = (run_dir / "diagnostics").iterdir()
    assert str(report) in finished.error
    assert "ZeroDivisionError" in report.read_text()
    monkeypatch.setattr(mtrl.training.run, "train", fail)
    finished = call("train", "--suite", "point-mass")
    assert finished.code == 70
    assert finished.error.startswith("Traceback")


# What is handed over.


def test_flags_go_over_the_file_and_the_run_directory_has_a_telling_name(
    tmp_path: Path, handed_over: dict[str, Any]
) -> None:
    (tmp_path / "run.yaml").write_text("suite: point-mass\nagent: {batch_size: 5, discount: 0.5}\nseed: 3\n")
    assert call("train", "--config", "run.yaml", "--agent.batch_size=6", "--seed", "4", "--num-workers", "0").code == 0
    (config, folder), named = handed_over["train"]
    assert (config.agent.config.batch_size, config.agent.config.discount) == (6, 0.5)
    assert (config.settings.seed, config.settings.num_workers) == (4, 0)
    assert (folder, named) == (Path("runs/point-mass-sac-multi-head-seed4"), {"overwrite": False})
    assert call("train", "--suite", "metaworld:reach,push").code == 0
    assert handed_over["train"][0][1] == Path("runs/metaworld-reach-push-sac-multi-head-seed1")


def test_the_last_of_repeated_flags_counts(handed_over: dict[str, Any]) -> None:
    assert (
        call(
            "train", "--suite", "mt3", "--suite=point-mass", "--architecture", "mlp", "--architecture", "multi-head"
        ).code
        == 0
    )
    config = handed_over["train"][0][0]
    assert (config.suite.name, config.architecture.name) == ("point-mass", "multi-head")


def test_switches_can_be_turned_off_again(tmp_path: Path, handed_over: dict[str, Any]) -> None:
    (tmp_path / "run.yaml").write_text("suite: point-mass\nagent: {temperature_task_weights: true}\n")
    assert call("train", "--config", "run.yaml", "--agent.no-temperature-task-weights").code == 0
    assert handed_over["train"][0][0].agent.config.temperature_task_weights is False


def test_the_printed_configuration_gives_itself(tmp_path: Path) -> None:
    flags = ["--suite", "point-mass", "--agent.batch-size", "33", "--architecture", "mlp", "--seed", str(2**64 - 1)]
    printed = call("train", *flags, "--print-config")
    assert (printed.code, printed.error) == (0, "")
    (tmp_path / "run.yaml").write_text(printed.out)
    assert call("train", "--config", "run.yaml", "--print-config").out == printed.out
    assert parse_yaml(printed.out).agent.config.batch_size == 33
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_a_resume_takes_what_extends_a_run(run_dir: Path, handed_over: dict[str, Any]) -> None:
    flags = ["--total-env-steps", "9", "--max-hours", "0.5", "--num-workers", "0", "--device", "cpu"]
    assert call("train", "--resume", str(run_dir), *flags).code == 0
    changes = {"total_env_steps": 9, "max_hours": 0.5, "num_workers": 0, "device": "cpu"}
    assert handed_over["resume"][0] == (run_dir, changes, [])


def test_an_evaluation_is_handed_over_whole(run_dir: Path, handed_over: dict[str, Any]) -> None:
    assert call("eval", str(run_dir)).code == 0
    assert handed_over["evaluate"] == (
        (run_dir,),
        {
            "checkpoint": "latest",
            "episodes_per_task": None,
            "suite": None,
            "num_workers": None,
            "seed": None,
            "video": False,
            "plugins": [],
        },
    )
    flags = ["--checkpoint", "200000", "--episodes-per-task", "3", "--suite", "mt3", "--seed", "0", "--video"]
    assert call("eval", *flags, str(run_dir)).code == 0
    named = handed_over["evaluate"][1]
    assert (named["checkpoint"], named["episodes_per_task"], named["suite"]) == ("200000", 3, "mt3")
    assert (named["seed"], named["video"]) == (0, True)
    assert_refused(call("eval", str(run_dir), "--suite", "mt4"), "'mt4'")


def test_a_suite_is_warmed_up_for_a_run_and_not_for_a_question(
    tmp_path: Path, handed_over: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    warmed: list[str] = []
    family = suites.get("point-mass")
    monkeypatch.setattr(family, "warm_up", classmethod(lambda cls: warmed.append(cls.__name__)))
    (tmp_path / "run.yaml").write_text("suite: point-mass\n")
    for question in ("--print-config", "--help"):
        call("train", "--config", "run.yaml", question)
    call("train", "--suite", "mt100")
    assert warmed == []
    assert call("train", "--config", "run.yaml").code == 0
    assert set(warmed) == {"PointMass"}


# Plug-ins.


def test_a_class_from_this_folder_is_named_recorded_and_asked_for_again(
    tmp_path: Path, handed_over: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny_cli_module.py").write_text(TINY)
    arguments = ["train", "--suite", "point-mass", "--architecture", "tiny_cli_module:Tiny"]
    finished = call(*arguments, "--architecture.no-bias", "--run-dir", "a")
    assert finished.code == 0, finished.error
    config = handed_over["train"][0][0]
    assert (config.plugins, config.architecture.config.bias) == (("tiny_cli_module",), False)
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_yaml(config))
    for verb in (["train", "--resume", "a"], ["eval", "a"], ["train", "--config", "a/config.yaml"]):
        monkeypatch.setattr(registry, "_trusted_modules", {})
        assert_refused(call(*verb), "--plugin tiny_cli_module")
        finished = call(*verb, "--plugin", "tiny_cli_module")
        assert finished.code == 0, finished.error
    assert handed_over["resume"][0][2] == ["tiny_cli_module"]
    assert handed_over["evaluate"][1]["plugins"] == ["tiny_cli_module"]
    assert handed_over["train"][0][0].plugins == ("tiny_cli_module",)


def test_a_configuration_that_names_code_runs_none(tmp_path: Path) -> None:
    canary = tmp_path / "canary_cli_module.py"
    canary.write_text(f"open({str(tmp_path / 'sung')!r}, 'w')\nclass Tiny: pass\n")
    for text in (
        "plugins: [canary_cli_module]",
        "architecture: canary_cli_module:Tiny",
        "suite: canary_cli_module:Tiny",
    ):
        (tmp_path / "config.yaml").write_text(text)
        for verb in (["train", "--config", "config.yaml"], ["train", "--resume", "."], ["eval", "."]):
            assert_refused(call(*verb), "--plugin canary_cli_module")
    assert not (tmp_path / "sung").exists()


@pytest.mark.parametrize(
    ("source", "fragment"),
    [
        ("raise SystemExit(0)", "cannot be imported: SystemExit"),
        ("import sys; sys.exit('bye')", "cannot be imported: SystemExit: bye"),
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
        ("def broken(:", "cannot be imported: SyntaxError"),
        ("def register(): 1 / 0", "register() of plug-in"),
        ("def register(name): pass", "register() of plug-in"),
    ],
)
def test_a_broken_plugin_is_named(source: str, fragment: str, tmp_path: Path) -> None:
    name = f"broken_cli_module_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    assert_refused(call("list", "--plugin", name), name, fragment)


# Listing and diagnosis.


def test_list_shows_every_registered_class_with_its_settings() -> None:
    finished = call("list")
    assert finished.code == 0
    for name in [*agent_types.names(), "mt10", "multi-head", "pcgrad", "uniform", "none", "single", "identity"]:
        assert re.search(rf"^ {name} ", finished.out, re.MULTILINE), name
    assert "discount = 0.99" in finished.out
    assert call("list", "agents").out.count("\n") < finished.out.count("\n")


def test_list_shows_classes_of_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mtrl.networks import architectures

    monkeypatch.setattr(architectures, "_classes", dict(architectures._classes))
    source = TINY.replace("class Tiny", "@architectures.register('tiny-listed')\nclass Tiny")
    (tmp_path / "tiny_listed_module.py").write_text(f"from mtrl.networks import architectures\n{source}")
    finished = call("list", "architectures", "--plugin", "tiny_listed_module")
    assert finished.code == 0
    assert re.search(r"^ tiny-listed +One linear +", finished.out, re.MULTILINE)
    assert re.search(r" 320 +0\.00 *$", finished.out, re.MULTILINE)  # 39 * 8 + 8 parameters
    assert "bias = True" in finished.out


def test_list_counts_parameters_and_operations_of_architectures_on_mt10() -> None:
    rows = call("list", "architectures").out.splitlines()

    def row(name: str) -> str:
        return next(line for line in rows if line.startswith(f" {name} "))

    assert row("soft-modules").split()[-2:] == ["691,022", "1.38"]
    # Two operations for each weight of the layers and of the row's own head.
    multi_head = 2 * ((39 + 10) * 400 + 2 * 400 * 400 + 400 * 8) / 1e6
    assert row("multi-head").split()[-2:] == ["372,880", f"{multi_head:.2f}"]


def test_a_plugin_that_cannot_be_made_is_listed_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from mtrl.networks import architectures
    from mtrl.networks.hard_sharing.mlp import MLP

    class Broken(MLP):
        """Fails."""

        def __init__(self, *arguments: object):
            raise RuntimeError("no luck")

    monkeypatch.setattr(architectures, "_classes", architectures._classes | {"broken": Broken})
    assert "luck)" in call("list", "architectures").out


def test_match_params_widens_the_perceptron_to_the_size_of_another_architecture() -> None:
    line = "train --suite point-mass --architecture mlp --match-params soft-modules --print-config"
    finished = call(*line.split())
    assert finished.code == 0
    width = parse_yaml(finished.out).architecture.config.width

    def size(architecture: dict[str, Any]) -> int:
        config = resolve_config({"suite": "point-mass", "architecture": architecture})
        return num_parameters(build_agent(config, build_suite(config.suite, 1), torch.device("cpu")))

    wanted = size({"name": "soft-modules"})
    errors = [abs(size({"name": "mlp", "width": width + step}) - wanted) for step in (-1, 0, 1)]
    assert min(errors) == errors[1] < 0.01 * wanted


def test_doctor_names_versions_licences_and_broken_plugins() -> None:
    finished = call("doctor", "--plugin", "no_such_module")
    assert finished.code == 0
    for fragment in (
        "python",
        "torch threads",
        "matrix products",
        "bfloat16",
        "GPL-2.0-only",
        "MIT",
        "agents:register",
        "broken",
        "cache",
        "mujoco",
    ):
        assert fragment in finished.out


# Processes of their own.


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mtrl", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0


SUBPROCESS_CASES = [
    ["train", "--config", "bad.yaml"],
    ["train", "--config", "/dev/zero"],
    ["train", "--resume", "nowhere\udcff"],
    ["train", "--agent.batch-size", "\ud7ff"],
    ["train", "--suite", "point-mass", "--architecture.width", "9" * 5000],
    ["eval", "--checkpoint", "\u202e", "."],
]


def refused_by_a_process(arguments: Sequence[str], folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    started = time.monotonic()
    result = command(*arguments, cwd=folder, env={**os.environ, "PYTHONHASHSEED": "0"})
    assert_refused(result)
    assert result.stdout == ""
    assert sorted(folder.rglob("*")) == before
    # The goal is three seconds on a quiet machine; this one may be busy.
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("arguments", SUBPROCESS_CASES)
def test_a_process_refuses_quickly_and_writes_nothing(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"a: &a [*a, *a]\n")
    refused_by_a_process(arguments, tmp_path)


# Fuzz: any flags give a valid configuration or one line.

FLAGS = [
    *("--suite", "--agent", "--architecture", "--policy", "--scheduler", "--config", "--plugin", "--run-dir", "--seed"),
    *("--total-env-steps", "--num-envs", "--device", "--max-hours", "--agent.batch-size", "--agent.discount"),
    *("--agent.temperature-task-weights", "--agent.no-temperature-task-weights", "--architecture.width"),
    *("--worker-timeout", "--overwrite", "--agent.", "--", "-x", "--=", "--agent.batch_size", "---seed", "--seed="),
]
WORDS = [
    *(
        "sac",
        "ppo",
        "popart",
        "mt10",
        "mt3",
        "point-mass",
        "mlp",
        "multi-head",
        "cpu",
        "1",
        "0",
        "-1",
        "2.5",
        "1e9",
        "nan",
        "inf",
        "None",
        "",
    ),
    *(
        "True",
        "[]",
        "9" * 400,
        "a" * 400,
        "é\u202e\x1b[0m",
        "\udc80",
        "x:Y",
        ":",
        "a:b:c",
        "..",
        "/",
        "%s",
        "{}",
        "'",
        "\\",
    ),
]


def random_flags(generator: random.Random) -> list[str]:
    """Flags of which most have a value, most of them a wrong one."""
    flags: list[str] = []
    for _ in range(generator.randint(1, 4)):
        flag, word = generator.choice(FLAGS), generator.choice(WORDS)
        kind = generator.random()
        flags += [flag, word] if kind < 0.7 else [f"{flag}={word}"] if kind < 0.85 else [flag]
        if generator.random() < 0.1:
            flags.append(generator.choice(WORDS))
    return flags


@pytest.mark.parametrize("count", [150, pytest.param(5000, marks=pytest.mark.full)])
def test_any_flags_are_a_configuration_or_one_line(count: int, tmp_path: Path) -> None:
    generator = random.Random(count)
    codes = []
    for _ in range(count):
        flags = random_flags(generator)
        finished = call("train", *flags, "--print-config")
        codes.append(finished.code)
        if finished.code:
            assert_refused(finished)
        else:
            parse_yaml(finished.out)
        assert list(tmp_path.iterdir()) == [], flags
    assert 0 < codes.count(0) < count


@pytest.mark.full
def test_two_hundred_processes_refuse_or_print(tmp_path: Path) -> None:
    generator = random.Random(200)
    for _ in range(200):
        flags = [flag.replace("\0", "") for flag in random_flags(generator)]
        result = command("train", *flags, "--print-config", cwd=tmp_path)
        if result.returncode:
            assert_refused(result)
        else:
            parse_yaml(result.stdout)
        assert list(tmp_path.iterdir()) == []
