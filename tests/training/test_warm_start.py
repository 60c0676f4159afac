"""A new run begins with the weights of another one that fit, and says which do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from agents.ppo import PPO
from agents.sac import SAC
from envs.point_mass import PointMass
from mtrl.agent import Agent
from mtrl.checkpoints.store import CheckpointStore
from mtrl.errors import BadInput
from mtrl.networks.hard_sharing.mlp import MLP
from mtrl.testing.small_runs import make_agent
from mtrl.training import run
from mtrl.training.warm_start import warm_start
from tests.training.tiny_runs import tiny_config

QUICK: dict[str, Any] = {"total_env_steps": 320, "eval_interval": 0, "final_eval_episodes_per_task": 0}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("source") / "run"
    assert run.train(tiny_config(**QUICK), folder) == 0
    return str(folder)


def weights_of(run_dir: str) -> dict[str, torch.Tensor]:
    return CheckpointStore(Path(run_dir) / "checkpoints").load("latest").state["agent"]["modules"]


def new(cls: type[Agent] = SAC, suite: str = "point-mass", width: int = 16) -> Agent:
    spec = PointMass(suite, PointMass.Config(), 1).spec
    return make_agent(cls, cls.Config(), spec, seed=5, architecture_config=MLP.Config(width=width, depth=1))


def test_all_weights_of_the_same_agent_fit_and_nothing_else_is_taken(source: str) -> None:
    agent = new()
    told = warm_start(agent, source)
    stored, own = weights_of(source), agent.state_dict()
    assert told.other_shape == told.new == ()
    assert set(told.taken) == {name for name in own if not name.endswith("_extra_state")}
    assert all(torch.equal(own[name], stored[name]) for name in told.taken)
    # The average begins anew, the optimizers too.
    assert agent.average.num_updates == 0
    assert not agent.actor_group.optimizer.state
    assert str(told).startswith(f"warm start from {source}, step 320: {len(told.taken)} of {len(told.taken)} tensors")


def test_what_has_another_shape_stays_as_it_is_and_is_told(source: str) -> None:
    agent = new(suite="point-mass-conflict")  # two tasks, not four, in the input
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    told = warm_start(agent, source)
    assert "temperatures.log_alpha" in told.other_shape
    assert told.taken
    after = agent.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in told.other_shape)
    assert "of another shape: policy.architecture.trunk.0.weight, " in str(told)


def test_another_kind_of_agent_takes_the_averaged_policy(source: str) -> None:
    agent = new(PPO)
    told = warm_start(agent, source)
    stored, own = weights_of(source), agent.state_dict()
    pair = [name for name in told.taken if name.startswith("networks.policy")]
    assert pair
    for name in pair:
        assert torch.equal(own[name], stored[name.replace("networks.policy", "average.policy")])
    assert any(name.startswith("networks.value") for name in told.new)
    assert told.num_unused > 0


def test_a_run_of_which_nothing_fits_is_refused(source: str) -> None:
    agent = new(PPO, suite="point-mass-visible", width=32)
    with pytest.raises(BadInput, match=f"nothing of {source} .step 320. fits this agent"):
        warm_start(agent, source)


def test_a_run_starts_from_another_and_resumes_from_itself(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(warm_start=source, **QUICK | {"total_env_steps": 8})  # before it learns
    assert run.train(config, tmp_path / "run") == 0
    assert f"warm start from {source}, step 320" in capsys.readouterr().out
    first, stored = weights_of(str(tmp_path / "run")), weights_of(source)
    assert all(torch.equal(first[name], stored[name]) for name in stored if not name.endswith("_extra_state"))
    assert run.resume(tmp_path / "run", {"total_env_steps": 160}) == 0
    assert "warm start" not in capsys.readouterr().out
    with pytest.raises(BadInput, match="nothing-there"):
        run.train(tiny_config(warm_start=f"{tmp_path}/nothing-there"), tmp_path / "other")
    assert not (tmp_path / "other").exists()
