"""A small study with Optuna."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtrl.cli.main import main
from mtrl.launch import search as search_module
from mtrl.launch.run_status import run_directories
from tests.launch.sweep_files import write_sweep

optuna = pytest.importorskip("optuna")

SEARCH = {"agent.learning-rate": {"low": 1e-4, "high": 1e-2, "log": True}, "architecture.width": {"low": 8, "high": 16}}
FLAGS = {"architecture.width": None, "total-env-steps": 80, "eval-interval": 40}


@pytest.mark.slow
def test_a_search_goes_on_to_the_number_of_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = write_sweep(tmp_path, flags=FLAGS, search=SEARCH)
    arguments = ["sweep", str(sweep), "--search", "optuna", "--jobs", "2"]
    assert main([*arguments, "--trials", "1"]) == 0
    assert main([*arguments, "--trials", "2"]) == 0
    folder = tmp_path / "runs"
    names = [path.relative_to(folder).as_posix() for path in run_directories(folder)]
    assert names == ["trial-0000/seed-1", "trial-0001/seed-1"]
    study = optuna.load_study(study_name=search_module.STUDY, storage=f"sqlite:///{folder / search_module.STORAGE}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    assert all({*trial.intermediate_values} == {40, 80} for trial in study.trials)
    assert study.trials[0].params != study.trials[1].params
    assert f"best of 2 complete trials: trial-{study.best_trial.number:04d}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_trial_that_is_pruned_stops_and_one_that_was_cut_short_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_sweep(tmp_path, flags={**FLAGS, "total-env-steps": 100_000}, search=SEARCH)
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setattr(optuna.pruners.MedianPruner, "prune", lambda self, study, trial: trial.last_step is not None)
    study = optuna.create_study(study_name=search_module.STUDY, storage=f"sqlite:///{folder / search_module.STORAGE}")
    study.enqueue_trial({"agent.learning-rate": 1e-3, "architecture.width": 8})
    study.ask({"agent.learning-rate": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
               "architecture.width": optuna.distributions.IntDistribution(8, 16)})  # fmt: skip
    assert main(["sweep", str(sweep), "--search", "optuna", "--trials", "1", "--jobs", "1"]) == 0
    (trial,) = optuna.load_study(study_name=search_module.STUDY, storage=study._storage).trials
    assert (trial.state.name, trial.params["architecture.width"]) == ("PRUNED", 8)
    assert "pruned" in capsys.readouterr().out


@pytest.mark.slow
def test_a_trial_whose_hours_are_over_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = {**FLAGS, "max-hours": 1e-7}
    command = ["sweep", str(write_sweep(tmp_path, flags=flags, search=SEARCH)), "--search", "optuna", "--trials", "1"]
    assert main([*command, "--jobs", "1"]) == 0
    assert f"go on: mtrl {' '.join(command)} --jobs=1\n" in capsys.readouterr().out
    folder = tmp_path / "runs"
    study = optuna.load_study(study_name=search_module.STUDY, storage=f"sqlite:///{folder / search_module.STORAGE}")
    assert [trial.state.name for trial in study.trials] == ["RUNNING"]
    assert main(["train", "--resume", str(folder / "trial-0000" / "seed-1"), "--max-hours", "1"]) == 0
    assert main(command) == 0
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]


def test_other_choices_than_those_of_the_study_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "", "--search", "optuna", "--trials", "2", "--jobs", "1"]
    folder = tmp_path / "runs"
    folder.mkdir()
    study = optuna.create_study(study_name=search_module.STUDY, storage=f"sqlite:///{folder / search_module.STORAGE}")
    study.tell(study.ask({"architecture": optuna.distributions.CategoricalDistribution(["mlp", "film"])}), 0.0)
    flags = {"architecture": None, **FLAGS}
    command[1] = str(write_sweep(tmp_path, flags=flags, search={"architecture": ["mlp", "film", "multi-head"]}))
    assert main(command) == 2
    assert "a search with other choices needs another 'folder'" in capsys.readouterr().err


def test_a_trial_that_cannot_be_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    study = optuna.create_study(study_name=search_module.STUDY, storage=f"sqlite:///{folder / search_module.STORAGE}")
    study.ask({"architecture": optuna.distributions.CategoricalDistribution(["flim", "mlp"])})
    trial = study.trials[0]
    if trial.params["architecture"] == "mlp":
        study.enqueue_trial({"architecture": "flim"})
        study.ask({"architecture": optuna.distributions.CategoricalDistribution(["flim", "mlp"])})
    flags = {"architecture": None, **FLAGS}
    path = write_sweep(tmp_path, flags=flags, search={"architecture": ["mlp"]})
    assert main(["sweep", str(path), "--search", "optuna", "--trials", "1", "--jobs", "1"]) == 2
    assert "did you mean 'film'?" in capsys.readouterr().err
    states = {trial.params["architecture"]: trial.state.name for trial in study.trials}
    assert states["flim"] == "FAIL"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"search": {}}, "'search' has no ranges"),
    ({"grid": {"agent.discount": [0.9]}}, "no 'grid'"),
    (
        {"search": {"agent.discount": 0.9}},
        "search: agent.discount: 0.9 is not allowed; must be a list, or low and high",
    ),
    ({"search": {"agent.discount": []}}, "search: agent.discount: a list of names"),
    ({"search": {"agent.discount": [0.9, 7.0, 0.99]}}, "agent.discount: 7.0 is not allowed"),
    ({"search": {"agent.discount": {"low": 0.9}}}, "search: agent.discount:"),
    ({"search": {"agent.discount": {"low": 0.9, "high": 0.1}}}, "search: agent.discount:"),
    ({"search": {"agent.discount": {"low": 0.9, "high": 1.5}}}, "agent.discount: 1.5 is not allowed"),
    ({"search": {"agent.discuont": {"low": 0.9, "high": 0.99}}}, "unknown key 'agent.discuont'"),
    ({"search": {"agent.discount": {"low": 0.9, "hihg": 0.99}}}, "unknown key 'hihg' (did you mean 'high'?)"),
]


@pytest.mark.parametrize(("keys", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_search_is_one_line(
    keys: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sweep(tmp_path, **{"flags": FLAGS, "search": SEARCH, **keys})
    assert main(["sweep", str(path), "--search", "optuna", "--trials", "2"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]
