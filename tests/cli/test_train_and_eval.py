"""What `mtrl train` and `mtrl eval` hand over to training, and which code a command may import."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from mtrl import registry
from mtrl.config.schema import dump_yaml, parse_yaml, resolve_config
from mtrl.env.suite import suites
from mtrl.networks.size import num_parameters
from mtrl.training import run
from mtrl.training.build import build_agent, build_suite
from tests.cli.commands import assert_refused, call, command
from tests.training.tiny_runs import tiny_config

TINY = """
from dataclasses import dataclass
from torch import nn
from mtrl.networks import PolicyArchitecture

class Tiny(PolicyArchitecture):
    @dataclass(frozen=True, kw_only=True)
    class Config:
        bias: bool = True  # whether it has a bias

    def __init__(self, in_features, out_features, num_tasks, config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.layer = nn.Linear(in_features, out_features, bias=config.bias)

    def forward(self, features, task_ids, draw=None):
        return self.layer(features)
"""


def test_flags_go_over_the_file_and_the_run_directory_is_named_after_the_choices(
    tmp_path: Path, handed_over: dict[str, Any]
) -> None:
    (tmp_path / "run.yaml").write_text(
        "suite: point-mass\nagent: {batch_size: 5, discount: 0.5, temperature_task_weights: true}\nseed: 3\n"
    )
    flags = ["--agent.batch_size=6", "--agent.no-temperature-task-weights", "--seed", "4", "--num-workers", "0"]
    assert call("train", "--config", "run.yaml", *flags, "--total-env-steps", "1e3").code == 0
    (config, folder), named = handed_over["train"]
    agent = config.agent.config
    assert (agent.batch_size, agent.discount, agent.temperature_task_weights) == (6, 0.5, False)
    settings = config.settings
    assert (settings.seed, settings.num_workers, settings.total_env_steps) == (4, 0, 1000)
    assert (folder, named) == (Path("runs/point-mass-sac-multi-head-seed4"), {"overwrite": False})
    assert call("train", "--suite", "metaworld:reach,push", "--overwrite").code == 0
    assert handed_over["train"][0][1] == Path("runs/metaworld-reach-push-sac-multi-head-seed1")
    assert handed_over["train"][1] == {"overwrite": True}


def test_the_last_of_repeated_classes_counts(handed_over: dict[str, Any]) -> None:
    flags = ["--suite", "mt3", "--suite=point-mass", "--architecture", "mlp", "--architecture", "multi-head"]
    assert call("train", *flags).code == 0
    config = handed_over["train"][0][0]
    assert (config.suite.name, config.architecture.name) == ("point-mass", "multi-head")


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("agent: {batch_size: 0}", "agent.batch_size"),
        ("agent: {lr: 1}", "did you mean 'learning_rate'"),
        ("seed: 1\nseed: 2", "line 2"),
        ("seed: [", "run.yaml"),
        ("plugins: [canary]", "--plugin canary"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong(tmp_path: Path, text: str, fragment: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    assert_refused(call("train", "--config", "run.yaml"), fragment)


def test_a_learning_rate_that_is_0_before_the_end_is_refused(tmp_path: Path) -> None:
    flags = ["--suite", "point-mass", "--agent.annealing-steps", "100", "--total-env-steps", "200"]
    assert_refused(call("train", *flags, "--run-dir", "run"), "agent.annealing_steps: 100 is not allowed", "null")
    assert list(tmp_path.iterdir()) == []


def test_the_printed_configuration_gives_itself(tmp_path: Path) -> None:
    flags = ["--suite", "point-mass", "--agent.batch-size", "33", "--architecture", "mlp", "--seed", str(2**64 - 1)]
    printed = call("train", *flags, "--print-config")
    assert (printed.code, printed.error) == (0, "")
    (tmp_path / "run.yaml").write_text(printed.out)
    assert call("train", "--config", "run.yaml", "--print-config").out == printed.out
    assert parse_yaml(printed.out).agent.config.batch_size == 33
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_a_resume_takes_what_extends_a_run(run_dir: Path, handed_over: dict[str, Any]) -> None:
    flags = ["--total-env-steps", "1e4", "--max-hours", "0.5", "--num-workers", "0", "--device", "cpu"]
    assert call("train", "--resume", str(run_dir), *flags).code == 0
    changes = {"total_env_steps": 10_000, "max_hours": 0.5, "num_workers": 0, "device": "cpu"}
    assert handed_over["resume"][0] == (run_dir, changes, [])
    assert_refused(call("train", "--resume", str(run_dir), "--total-env-steps", "0"), "total_env_steps: 0")


def test_an_evaluation_is_handed_over_whole(run_dir: Path, handed_over: dict[str, Any]) -> None:
    assert call("eval", str(run_dir)).code == 0
    settings = {
        "checkpoint": "latest",
        "weights": "averaged",
        "policy_part": None,
        "episodes_per_task": None,
        "suite": None,
        "workers": None,
    }
    settings |= {"seed": None, "video": False, "output": None, "plugins": []}
    assert handed_over["evaluate"] == ((run_dir,), settings)
    flags = ["--checkpoint", "200000", "--episodes-per-task", "3", "--suite", "mt3", "--seed", "0", "--video"]
    flags += ["--output", "r.json"]
    assert call("eval", *flags, str(run_dir)).code == 0
    changed = {"checkpoint": "200000", "episodes_per_task": 3, "suite": "mt3", "seed": 0, "video": True}
    changed["output"] = Path("r.json")
    assert handed_over["evaluate"][1] == settings | changed
    assert_refused(call("eval", str(run_dir), "--suite", "mt4"), "'mt4'")


def test_an_evaluation_that_could_not_be_saved_is_refused_before_it_is_played(run_dir: Path, tmp_path: Path) -> None:
    assert_refused(call("eval", str(run_dir), "--output", "nowhere/x.json"), "output: there is no folder 'nowhere'")
    assert_refused(call("eval", str(run_dir), "--output", str(tmp_path)), "is a folder")


def test_a_video_of_a_suite_without_pictures_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    config = tiny_config(total_env_steps=80, eval_interval=0, final_eval_episodes_per_task=0)
    assert run.train(config, tmp_path / "run") == 0
    refused = call("eval", "run", "--video", "--num-workers", "0", "--episodes-per-task", "1")
    assert_refused(refused, "error: video: suite 'point-mass' has no pictures")
    assert refused.out == ""
    assert not (tmp_path / "run" / "eval.json").exists()


def test_a_suite_is_warmed_up_for_a_run_and_not_for_a_question(
    tmp_path: Path, handed_over: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    warmed: list[str] = []
    monkeypatch.setattr(suites.get("point-mass"), "warm_up", classmethod(lambda cls: warmed.append(cls.__name__)))
    (tmp_path / "run.yaml").write_text("suite: point-mass\n")
    for question in ("--print-config", "--print_config", "--help"):
        call("train", "--config", "run.yaml", question)
    call("train", "--suite", "mt100")
    assert warmed == []
    assert call("train", "--config", "run.yaml").code == 0
    assert set(warmed) == {"PointMass"}


def test_match_params_widens_the_mlp_to_the_size_of_another_architecture() -> None:
    flags = ["--suite", "point-mass", "--architecture", "mlp", "--match-params", "soft-modules"]
    finished = call("train", *flags, "--print-config")
    assert finished.code == 0
    width = parse_yaml(finished.out).architecture.config.width

    def size(architecture: dict[str, Any]) -> int:
        config = resolve_config({"suite": "point-mass", "architecture": architecture})
        return num_parameters(build_agent(config, build_suite(config.suite, 1), torch.device("cpu")))

    wanted = size({"name": "soft-modules"})
    errors = [abs(size({"name": "mlp", "width": width + step}) - wanted) for step in (-1, 0, 1)]
    assert min(errors) == errors[1] < 0.01 * wanted


def test_match_params_matches_the_network_that_the_preset_gives_a_run() -> None:
    # The preset of mt3 has a smaller multi-head network than the class.
    finished = call(
        "train", "--suite", "mt3", "--architecture", "mlp", "--match-params", "multi-head", "--print-config"
    )
    assert finished.code == 0
    config, other = parse_yaml(finished.out), resolve_config({"suite": "mt3", "architecture": "multi-head"})
    size, wanted = (
        num_parameters(build_agent(own, build_suite(own.suite, 1), torch.device("cpu"))) for own in (config, other)
    )
    assert size == pytest.approx(wanted, rel=0.02)


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
    (tmp_path / "canary_cli_module.py").write_text(f"open({str(tmp_path / 'sung')!r}, 'w')\nclass Tiny: pass\n")
    for key in ("plugins: [canary_cli_module]", "architecture: canary_cli_module:T", "suite: canary_cli_module:T"):
        (tmp_path / "config.yaml").write_text(key)
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


# Fuzz: any flags give a valid configuration or one line.

FLAGS = [
    *("--suite", "--agent", "--architecture", "--policy", "--scheduler", "--config", "--plugin", "--run-dir", "--seed"),
    *("--total-env-steps", "--num-envs", "--device", "--max-hours", "--agent.batch-size", "--agent.discount"),
    *("--agent.temperature-task-weights", "--agent.no-temperature-task-weights", "--architecture.width"),
    *("--scheduler.weights", "--worker-timeout", "--overwrite", "--agent.", "--", "-x", "--=", "--agent.batch_size"),
    *("---seed", "--seed="),
]
WORDS = [
    *("sac", "ppo", "popart", "fixed", "mt10", "mt3", "point-mass", "mlp", "multi-head", "cpu", "1", "0", "-1", "2.5"),
    *("1e9", ".nan", ".inf", "None", "", "True", "[]", "9" * 400, "a" * 400, "é\u202e\x1b[0m", "\udc80", "x:Y", ":"),
    *("a:b:c", "..", "/", "%s", "{}", "'", "\\", "*a", "&a", "!!int 3", "~", "<<"),
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
        finished = command("train", *random_flags(generator), "--print-config", cwd=tmp_path)
        if finished.code:
            assert_refused(finished)
        else:
            parse_yaml(finished.out)
        assert list(tmp_path.iterdir()) == []
