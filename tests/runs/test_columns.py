"""Columns of the metrics of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mtrl
from mtrl.errors import BadInput
from mtrl.runs.columns import columns
from mtrl.training import run
from tests.training.tiny_runs import in_child, tiny_config


def test_rows_of_the_same_step_are_one_and_what_is_missing_is_nan() -> None:
    rows = [
        {"env_steps": 10, "train/mean_return": 1.0, "actor/choice/a": [[1.0], [0.0]]},
        {"env_steps": 20, "train/mean_return": None, "actor/choice/a": [[1.0], [0.5]]},
        {"env_steps": 20, "eval/kind": "periodic", "eval/mean_return": 2.0},
        {"env_steps": 20, "eval/kind": "final", "eval/mean_return": 3.0},
    ]
    found = columns(rows)
    np.testing.assert_array_equal(found["env_steps"], [10, 20])
    np.testing.assert_array_equal(found["train/mean_return"], [1.0, np.nan])
    np.testing.assert_array_equal(found["eval/mean_return"], [np.nan, 3.0])
    assert found["eval/kind"].tolist() == [None, "final"]
    assert found["actor/choice/a"].tolist() == [[[1.0], [0.0]], [[1.0], [0.5]]]
    assert columns([])["env_steps"].shape == (0,)


def test_a_run_becomes_columns_of_equal_length(tmp_path: Path) -> None:
    assert in_child(lambda: run.train(tiny_config(total_env_steps=400), tmp_path / "run")) == 0
    found = mtrl.load_metrics(str(tmp_path / "run"))
    assert found["env_steps"].tolist() == [80, 160, 240, 320, 400]
    assert {column.shape for column in found.values()} == {(5,)}
    assert np.isfinite(found["losses/mean_critic_loss"]).sum() == 4  # nothing is learned in the first 80 steps
    assert np.isfinite(found["eval/mean_return"]).tolist() == 4 * [False] + [True]
    with pytest.raises(BadInput, match=r"config\.yaml"):
        mtrl.load_metrics(str(tmp_path))
