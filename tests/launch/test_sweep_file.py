"""What a sweep file means, and what is wrong with one in a line."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

import agents
import envs
from mtrl import registry
from mtrl.cli.main import main
from mtrl.config.schema import dump_yaml, parse_yaml, resolve_config
from mtrl.launch.sweep_file import Sweep
from tests.launch.sweep_files import write_sweep


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agents.register()
    envs.register()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_trusted_modules", {})


def test_a_grid_is_every_combination_with_every_seed(tmp_path: Path) -> None:
    grid = {"architecture": ["mlp", {"name": "multi-head", "depth": 2}], "agent.learning-rate": [1e-3, 3e-4]}
    flags = {"architecture": None, "architecture.depth": None}
    runs = Sweep(write_sweep(tmp_path, flags=flags, grid=grid, seeds=[3, 1])).runs()
    assert [run.name for run in runs] == [
        *("mlp_learning-rate-0.001/seed-3", "mlp_learning-rate-0.001/seed-1"),
        *("mlp_learning-rate-0.0003/seed-3", "mlp_learning-rate-0.0003/seed-1"),
        *("multi-head-depth-2_learning-rate-0.001/seed-3", "multi-head-depth-2_learning-rate-0.001/seed-1"),
        *("multi-head-depth-2_learning-rate-0.0003/seed-3", "multi-head-depth-2_learning-rate-0.0003/seed-1"),
    ]
    last = runs[-1].config
    assert (last.architecture.name, last.architecture.config.depth) == ("multi-head", 2)
    assert last.architecture.config.width == 16
    assert (last.agent.config.learning_rate, last.settings.seed) == (3e-4, 1)
    assert runs[0].run_dir == tmp_path / "runs" / runs[0].name


KINDS = {
    "agent.learning-rate": 1e-5,
    "agent.max-grad-norm": None,
    "cuda-graphs": False,
    "check_plugins": True,
    "aggregator": {"name": "mean", "critic": {"name": "pcgrad"}},
    "aggregator.actor": "cagrad",
    "aggregator.actor.c": 0.25,
    "scheduler": {"name": "fixed", "weights": {"goal-0.8-0.8": 2.0}},
    "suite": {"name": "point-mass"},
    "encoder": "mlp",
    "auxiliary": ["reward-prediction"],
    "auxiliary.reward-prediction.coefficient": 0.5,
}


def test_the_listed_commands_give_the_same_configurations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "base.yaml").write_text("agent: {name: sac, discount: 0.9}\nlog_interval: 40\n")
    path = write_sweep(tmp_path, flags={"suite": None, "log-interval": None, "config": "base.yaml", **KINDS})
    (planned,) = Sweep(path).runs()
    assert planned.config.agent.config.discount == 0.9
    assert planned.config.settings.log_interval == 40
    assert planned.config.group_aggregators["actor"].config.c == 0.25
    assert main(["sweep", str(path), "--dry-run"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    command = shlex.split(line)
    assert command[:2] == ["mtrl", "train"]
    assert main([*command[1:], "--print-config"]) == 0
    assert parse_yaml(capsys.readouterr().out) == planned.config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.yaml", "sweep.yaml"]


def test_names_of_runs_are_paths_that_differ(tmp_path: Path) -> None:
    grid = {
        "suite": ["point-mass", "gym:CartPole-v1,Acrobot-v1", "gym:CartPole-v1:Acrobot-v1"],
        "aggregator": ["mean", {"name": "mean", "critic": "pcgrad"}],
    }
    flags = {"suite": None}
    names = [run.name for run in Sweep(write_sweep(tmp_path, flags=flags, grid=grid)).runs()]
    assert names[:3] == [
        "point-mass_mean/seed-1",
        "point-mass_mean-critic-pcgrad/seed-1",
        "gym-CartPole-v1-Acrobot-v1-2_mean/seed-1",
    ]
    assert len({*names}) == 6


def test_a_plugin_counts_where_the_command_line_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_net.py").write_text("from mtrl.networks import architectures\nOwn = architectures.get('mlp')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = write_sweep(tmp_path, flags={"architecture": None}, grid={"architecture": ["own_net:Own", "mlp"]})
    assert main(["sweep", str(path), "--dry-run"]) == 2
    assert "add --plugin own_net" in capsys.readouterr().err
    assert main(["sweep", str(path), "--dry-run", "--plugin", "own_net"]) == 0
    assert "--plugin=own_net" in capsys.readouterr().out.splitlines()[0]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"flags": {"agent.batch-sise": 3}}, "unknown key 'agent.batch_sise' (did you mean 'batch_size'?)"),
    ({"grid": {"agent.batch-size": []}}, "grid: 'agent.batch-size' has an empty list"),
    ({"grid": {"agent.discount": 0.9}}, "grid: {'agent.discount': 0.9} is not allowed"),
    ({"grid": {"agent.discount": [0.9, 0.9]}}, "grid: 'agent.discount' has 0.9 twice"),
    ({"grid": {"agent.batch_size": [32, 64]}}, "'agent.batch_size' is given twice"),
    ({"grid": {"agent.discount": [0.9, 7]}}, "discount-7: agent.discount: 7 is not allowed"),
    ({"grid": {"architecture.width": [[16]]}, "flags": {"architecture.width": None}}, "architecture.width: [16]"),
    ({"grid": {"suite": ["point-mass", "poind-mass"]}, "flags": {"suite": None}}, "poind-mass: unknown suite"),
    ({"grid": {"seed": [1, 2]}}, "grid: 'seed' cannot be set here: 'seeds' of the file has them"),
    ({"grid": {"run-dir": ["a"]}}, "'run-dir' cannot be set here"),
    ({"flags": {"plugin": "os"}}, "'plugin' cannot be set here: a file runs no code"),
    ({"grid": {"architecture": [{"width": 16}, "mlp"]}, "flags": {"architecture": None}}, "is given twice"),
    ({"seeds": []}, "seeds: [] is not allowed"),
    ({"seeds": [1, 1]}, "a seed stands there twice"),
    ({"seeds": [-1]}, "seed: -1 is not allowed"),
    ({"seed": [1]}, "unknown key 'seed' (did you mean 'seeds'?)"),
    ({"resources": {"cpu": 1}}, "unknown key 'resources.cpu' (did you mean 'cpus'?)"),
    ({"grid": {"num-envs": [*range(150)]}, "flags": {"num-envs": None}, "seeds": [*range(100)]}, "15,000 runs"),
    ({"search": {"agent.discount": {"low": 0.9, "high": 0.99}}}, "--search optuna --trials N searches"),
    ({"flags": {"config": "nowhere.yaml"}}, "nowhere.yaml: cannot be read"),
]


@pytest.mark.parametrize(("keys", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_file_is_one_line(
    keys: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sweep(tmp_path, **keys)
    assert main(["sweep", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ")
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine", "kubernetes"], "engine: 'kubernetes' is not allowed; must be one of 'local', 'ray', 'slurm'"),
        (["--jobs", "0"], "jobs: 0 is not allowed"),
        (["--ray-address", "auto"], "--ray-address needs --engine ray"),
        (["--search", "optuna"], "--search and --trials need each other"),
        (["--trials", "3"], "--search and --trials need each other"),
        (["--search", "optuna", "--trials", "3", "--dry-run"], "--dry-run lists the commands of a grid"),
        (["--sedes", "3"], "unknown flag '--sedes'"),
    ],
)
def test_bad_flags_are_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(write_sweep(tmp_path)), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_two_combinations_that_are_the_same_run_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = {"architecture": ["mlp", {"name": "mlp", "width": 400}]}
    flags = {"architecture": None, "architecture.width": None, "architecture.depth": None}
    default = resolve_config({"suite": "point-mass", "architecture": "mlp"})
    assert "width: 400" in dump_yaml(default)
    assert main(["sweep", str(write_sweep(tmp_path, flags=flags, grid=grid)), "--dry-run"]) == 2
    assert "grid: 'mlp/seed-1' and 'mlp-width-400/seed-1' are the same run" in capsys.readouterr().err
