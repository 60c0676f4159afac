"""A trained agent in Python: `mtrl.load(run_dir).predict(observation, task)`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import mtrl
from mtrl.errors import BadInput
from mtrl.training import run
from tests.training.tiny_runs import in_child, tiny_config


def test_a_loaded_agent_acts_by_task_name_and_index(tmp_path: Path) -> None:
    config = tiny_config(total_env_steps=400, final_eval_episodes_per_task=0)
    assert in_child(lambda: run.train(config, tmp_path / "run")) == 0
    trained = mtrl.load(str(tmp_path / "run"))
    rows = np.array([[0.1, -0.2], [0.8, 0.8]], np.float32)
    actions = trained.predict(rows, "goal+0.8-0.8")
    assert actions.shape == (2, 2)
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(trained.predict(rows, 2), actions)
    assert trained.predict(rows[0], 2).shape == (2,)
    with pytest.raises(BadInput, match=r"did you mean 'goal\+0\.8-0\.8'"):
        trained.predict(rows, "goal+0.8-0.9")
    with pytest.raises(BadInput, match="outside 0 to 3"):
        trained.predict(rows, 4)
    assert mtrl.load(str(tmp_path / "run"), checkpoint="best").checkpoint.startswith("best")


def test_loading_leaves_the_callers_thread_count_alone(tmp_path: Path, three_threads: None) -> None:
    config = tiny_config(total_env_steps=160, final_eval_episodes_per_task=0)
    assert in_child(lambda: run.train(config, tmp_path / "run")) == 0  # on one thread
    trained = mtrl.load(str(tmp_path / "run"))
    trained.predict(np.zeros(2, np.float32), 0)
    assert torch.get_num_threads() == 3
