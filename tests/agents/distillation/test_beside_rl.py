"""Distillation beside SAC and PPO: how it fades, what is recorded, and that a student outgrows a spoilt teacher."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mtrl
from agents.distillation.beside_rl import Distillation
from agents.distillation.distill import Distill
from agents.ppo import PPO as PPOAgent
from agents.sac import SAC
from mtrl.errors import BadInput
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training import run
from mtrl.training.build import Chosen
from mtrl.training.run import training_loop
from mtrl.training.warm_start import warm_start
from tests.agents.distillation.conftest import MakeRun
from tests.training.test_learning import (
    MARGIN,
    SMALL_MLP,
    learn,
    learn_by_ppo,
    optimum,
    point_mass,
    returns_of,
)
from tests.training.tiny_runs import differences, final_state, in_child, tiny_config

SMALL: list[tuple[Any, Any]] = [
    (SAC, SAC.Config(batch_size=24, learning_starts=40)),
    (PPOAgent, PPOAgent.Config(rollout_steps=10, epochs=1, minibatches=2)),
]


def beside(*teachers: str, **settings: Any) -> dict[str, Any]:
    """Components with distillation as their auxiliary task."""
    return {"auxiliary": [Chosen(Distillation, Distillation.Config(teachers=teachers, **settings))]}


def task_of(agent: Any) -> Distillation:
    (found,) = [module for module in agent.modules() if isinstance(module, Distillation)]
    return found


@pytest.fixture
def spoilt(make_run: MakeRun) -> str:
    """A run that has learnt next to nothing of the two opposite tasks."""
    return make_run("point-mass-conflict", seed=3)


def trained(cls: Any, config: Any, teacher: str, **settings: Any) -> tuple[Any, list[dict[str, torch.Tensor]]]:
    suite = point_mass("point-mass-conflict")
    agent = make_agent(cls, config, suite.spec, **beside(teacher, **settings))
    run_of_it = training_loop(make_train_state(agent, suite), 200)
    return agent, [dict(progress.metrics) for progress in run_of_it if progress.metrics]


def test_a_quarter_of_the_way_the_weights_are_three_quarters_and_one_quarter(spoilt: str) -> None:
    agent = make_agent(*SMALL[0], point_mass("point-mass-conflict").spec, **beside(spoilt, annealing_steps=4))
    state, task = make_train_state(agent, point_mass("point-mass-conflict")), task_of(agent)
    turns = training_loop(state, 4 * 17)
    found = [(turn.metrics, (float(task.weight()), float(task.agent_weight()))) for turn in turns if turn.metrics]
    weights = [own for _, own in found]
    assert weights[:6] == [(1.0, 0.0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0.0, 1.0), (0.0, 1.0)]
    # In the end the teachers are asked no more.
    assert [row["auxiliary/Distillation"].any().item() for row, _ in found][:6] == [True] * 4 + [False] * 2


def test_kickstarting_leaves_the_agents_loss_alone_and_no_annealing_both(spoilt: str) -> None:
    task = task_of(trained(*SMALL[0], spoilt, annealing_steps=10**6, anneals_agent=False, coefficient=2.0)[0])
    assert 1.99 < float(task.weight()) < 2.0
    assert task.agent_weight() == 1.0
    task = task_of(trained(*SMALL[0], spoilt, annealing_steps=None, coefficient=0.5)[0])
    assert (task.weight(), task.agent_weight()) == (0.5, 1.0)


@pytest.mark.parametrize(("cls", "config"), SMALL, ids=["sac", "ppo"])
@pytest.mark.parametrize("divergence", ["forward", "modes"])
def test_the_policy_learns_what_its_teacher_does(cls: Any, config: Any, divergence: str, spoilt: str) -> None:
    agent, metrics = trained(cls, config, spoilt, divergence=divergence, annealing_steps=None)
    assert all(
        torch.isfinite(row["auxiliary/distillation"]).all() for row in metrics if "auxiliary/distillation" in row
    )
    assert len(agent.inputs()) == 2


def test_a_policy_that_is_its_teachers_has_no_loss(spoilt: str) -> None:
    suite = point_mass("point-mass-conflict")
    agent = make_agent(*SMALL[0], suite.spec, **beside(spoilt))
    warm_start(agent, spoilt)
    for value, average in agent.average.pairs():  # what the teacher plays is its average
        value.data.copy_(average)
    state = make_train_state(agent, suite)
    metrics = next(progress.metrics for progress in training_loop(state, 200) if progress.metrics)
    assert metrics["auxiliary/Distillation"].tolist() == [0.0, 0.0]


def test_a_task_without_a_teacher_is_refused_by_the_flag(spoilt: str) -> None:
    discrete = point_mass("point-mass-conflict-discrete").spec
    with pytest.raises(BadInput, match=r"auxiliary\.Distillation\.divergence: 'modes' is for continuous actions"):
        make_agent(*SMALL[0], discrete, **beside(spoilt, divergence="modes"))
    with pytest.raises(BadInput, match=r"no teacher for .*; name runs, or TASK=RUN, in --auxiliary\.Distillation\."):
        make_agent(*SMALL[0], point_mass("point-mass-conflict").spec, **beside())


def test_a_killed_run_resumes_bit_for_bit_and_plays_without_the_teacher(spoilt: str, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(spoilt, teacher)
    auxiliary = [{"name": "distillation", "teachers": [str(teacher)], "annealing_steps": 60}]
    config = tiny_config("point-mass-conflict", auxiliary=auxiliary, total_env_steps=640)
    assert in_child(lambda: run.train(config, tmp_path / "whole")) == 0
    assert in_child(lambda: run.train(config, tmp_path / "killed"), at_progress=50) == -9
    assert in_child(lambda: run.resume(tmp_path / "killed", {})) == 0
    assert differences(final_state(tmp_path / "whole"), final_state(tmp_path / "killed")) == []
    shutil.rmtree(teacher)
    assert mtrl.load(str(tmp_path / "whole")).predict(np.zeros(2, np.float32), 0).shape == (2,)
    with pytest.raises(BadInput, match=f"teacher {teacher}: "):
        run.resume(tmp_path / "whole", {"total_env_steps": 800})


def test_annealing_outgrows_a_spoilt_teacher_and_distillation_alone_does_not(spoilt: str) -> None:
    suite = point_mass("point-mass-conflict")
    annealed = learn(suite, 400, SMALL_MLP | beside(spoilt, annealing_steps=150))
    assert (annealed.mean_returns >= optimum(suite) - MARGIN).all(), annealed.mean_returns
    config = Distill.Config(teachers=(spoilt,), batch_size=128, learning_rate=3e-3, shift_steps=1000)
    plain = returns_of(Distill, config, suite, 100, SMALL_MLP)
    assert (plain.mean_returns < optimum(suite) - 5 * MARGIN).all(), plain.mean_returns


@pytest.mark.full
def test_annealing_outgrows_a_spoilt_teacher_with_ppo_and_constant_distillation_does_not(spoilt: str) -> None:
    suite = point_mass("point-mass-conflict")
    annealed = learn_by_ppo(suite, 24, SMALL_MLP | beside(spoilt, divergence="modes", annealing_steps=200))
    assert (annealed.mean_returns >= optimum(suite) - MARGIN).all(), annealed.mean_returns
    constant = learn(suite, 400, SMALL_MLP | beside(spoilt, annealing_steps=None, coefficient=100.0))
    assert (constant.mean_returns < optimum(suite) - MARGIN).any(), constant.mean_returns
