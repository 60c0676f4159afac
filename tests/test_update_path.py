"""How many files of the project one gradient update passes through."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import envs
from agents.sac import SAC
from mtrl.env.suite import suites
from mtrl.networks.hard_sharing.multi_head import MultiHead
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop

ROOT = Path(__file__).resolve().parents[1]
MAX_FILES = 15


def files_of_one_update() -> set[str]:
    """Project files entered by one SAC update, from sampling the buffer to averaging the target networks."""
    envs.register()
    suite = suites.get("point-mass")("point-mass", None, 1)
    agent = make_agent(SAC, SAC.Config(learning_starts=40), suite.spec, architecture=MultiHead)
    state = make_train_state(agent, suite)
    for _ in training_loop(state, 80):
        pass
    files = set()

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(f"{ROOT}/") and "/.venv/" not in path:
            files.add(str(Path(path).relative_to(ROOT)))

    sys.setprofile(trace)
    try:
        agent.learn(state.buffer.sample(agent.batch_size))
    finally:
        sys.setprofile(None)
    return files - {str(Path(__file__).resolve().relative_to(ROOT))}


def test_one_update_enters_few_files() -> None:
    files = files_of_one_update()
    assert "mtrl/optim/parameter_group.py" in files
    assert len(files) <= MAX_FILES, sorted(files)
