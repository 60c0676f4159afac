"""Shares given by a person, as a list or by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import agents
import envs
from mtrl.cli.main import main
from mtrl.config.schema import dump_yaml, parse_yaml, resolve_config
from mtrl.errors import BadInput
from mtrl.scheduling.fixed import Fixed
from mtrl.testing.scheduler import suite_with_targets

SUITE = suite_with_targets(3)


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ((1.0, 1.0, 2.0), [0.25, 0.25, 0.5]),
        ((0.0, 0.0, 7.0), [0.0, 0.0, 1.0]),
        ({"count-2": 3.0, "count-0": 1.0}, [0.25, 0.0, 0.75]),
        ((1e308, 1e308, 1e308), [1 / 3] * 3),
        ((5e-324, 0.0, 0.0), [1.0, 0.0, 0.0]),
    ],
)
def test_weights_are_normalised(weights: Any, shares: list[float]) -> None:
    scheduler = Fixed(SUITE, Fixed.Config(weights=weights), 1)
    scheduler.on_episodes([])
    assert scheduler.weights().tolist() == pytest.approx(shares)


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        (None, "0 given; suite 'counting' has 3 tasks"),
        ((1.0, 2.0), "2 given; suite 'counting' has 3 tasks"),
        ((1.0, -2.0, 1.0), "not negative"),
        ((0.0, 0.0, 0.0), "not all 0"),
        ({}, "not all 0"),
        ({"count-1": 0.0}, "not all 0"),
        ({"cuont-1": 1.0}, "no task 'cuont-1' \\(did you mean 'count-1'\\?\\)"),
    ],
)
def test_wrong_weights_are_refused(weights: Any, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        Fixed(SUITE, Fixed.Config(weights=weights), 1)


@pytest.mark.parametrize("weights", [[1.0, 2.0, 3, 4.5], {"goal+0.8+0.8": 2.0, "goal-0.8-0.8": 1}])
def test_weights_go_through_yaml(weights: Any) -> None:
    agents.register()
    envs.register()
    config = resolve_config({"suite": "point-mass", "scheduler": {"name": "fixed", "weights": weights}})
    assert parse_yaml(dump_yaml(config)) == config


@pytest.mark.parametrize("weights", [[1.0, -2.0, 3.0, 4.5], {"goal+0.8+0.8": -2.0}, "many", [1.0, "x"]])
def test_wrong_weights_in_yaml_are_refused(weights: Any) -> None:
    agents.register()
    envs.register()
    with pytest.raises(BadInput, match=r"scheduler\.weights"):
        resolve_config({"suite": "point-mass", "scheduler": {"name": "fixed", "weights": weights}})


TRAIN = ["train", "--suite", "point-mass", "--scheduler", "fixed"]


@pytest.mark.parametrize(
    ("values", "weights"),
    [
        (["1", "0", "2.5", "4"], (1.0, 0.0, 2.5, 4.0)),
        (["goal-0.8-0.8", "3", "goal+0.8+0.8", "1"], {"goal-0.8-0.8": 3.0, "goal+0.8+0.8": 1.0}),
    ],
    ids=["list", "names"],
)
def test_weights_are_flags(values: list[str], weights: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--scheduler.weights", *values, "--print-config"]) == 0
    assert parse_yaml(capsys.readouterr().out).scheduler.config.weights == weights


@pytest.mark.parametrize(
    "values", [["1", "2"], ["1", "-2", "3", "4"], ["goal", "3"], ["goal-0.8-0.8", "x"], ["0", "0", "0", "0"]]
)
def test_wrong_flags_end_with_one_line_and_no_run(
    values: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, "--scheduler.weights", *values, "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "scheduler.weights" in error
    assert not (tmp_path / "run").exists()
