"""The agent `distill`: its contract, its losses, who collects, and what a run records."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mtrl
from agents.distillation import teachers
from agents.distillation.distill import Distill, Regressors
from agents.sac import SAC
from envs.point_mass import PointMass
from mtrl.aggregation.projection.pcgrad import PCGrad
from mtrl.errors import BadInput
from mtrl.networks.modular.routing import Routing
from mtrl.normalization.popart import PopArt
from mtrl.testing import check_agent
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training import run
from mtrl.training.run import training_loop
from mtrl.training.warm_start import warm_start
from mtrl.types import SuiteSpec
from tests.agents.distillation.conftest import LEFT, PPO, RIGHT, MakeRun, student
from tests.training.tiny_runs import differences, final_state, in_child, tiny_config


def conflict() -> PointMass:
    return PointMass("point-mass-conflict", PointMass.Config(), 1)


@pytest.fixture
def two_runs(make_run: MakeRun) -> tuple[str, str]:
    return make_run(f"point-mass:{LEFT}", seed=1), make_run(f"point-mass:{RIGHT}", seed=2)


def learnt(vector_steps: int, parts: dict[str, Any] | None = None, **settings: Any) -> tuple[Distill, list[dict]]:
    """An agent after a few updates, and the metrics of each."""
    suite = conflict()
    agent = make_agent(Distill, Distill.Config(batch_size=24, **settings), suite.spec, **(parts or {}))
    state = make_train_state(agent, suite)
    return agent, [dict(progress.metrics) for progress in training_loop(state, 4 * vector_steps) if progress.metrics]


def test_it_keeps_the_contract_of_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    def untrained(run: str, spec: SuiteSpec, checkpoint: str, device: torch.device) -> teachers.Teacher:
        average = make_agent(SAC, SAC.Config(), spec, seed=9).average
        return teachers.Teacher(run, average.requires_grad_(False), spec, "0")

    monkeypatch.setattr(teachers, "load_teacher", untrained)
    check_agent(Distill, Distill.Config(teachers=("any",), batch_size=6, shift_steps=40))


def test_a_student_that_is_its_teacher_has_nothing_to_learn(make_run: MakeRun) -> None:
    both = make_run("point-mass-conflict", seed=3)
    for divergence in ("forward", "reverse", "modes"):
        agent = make_agent(Distill, Distill.Config(teachers=(both,), divergence=divergence), conflict().spec)
        warm_start(agent, both)
        state = make_train_state(agent, conflict())
        metrics = [progress.metrics for progress in training_loop(state, 8) if progress.metrics]
        assert metrics[0]["imitation_loss"].tolist() == [0.0, 0.0]


def test_teachers_in_any_order_make_the_same_student(two_runs: tuple[str, str]) -> None:
    first, second = (learnt(10, teachers=runs)[0].state() for runs in (two_runs, two_runs[::-1]))
    assert differences(first, second) == []


def test_the_loss_falls(two_runs: tuple[str, str]) -> None:
    _, metrics = learnt(60, teachers=two_runs, learning_rate=1e-2, teacher_share=1.0, final_teacher_share=1.0)
    first, last = (float(row["student_loss"].mean()) for row in (metrics[0], metrics[-1]))
    assert last < 0.3 * first


@pytest.mark.parametrize("parts", [{"aggregator": PCGrad}, {"architecture": Routing}], ids=["pcgrad", "routing"])
def test_other_heads_and_representations_work_with_task_gradients_and_routes(
    two_runs: tuple[str, str], make_run: MakeRun, parts: dict[str, Any]
) -> None:
    by_ppo = make_run(f"point-mass:{RIGHT}", agent=PPO)
    settings: dict[str, Any] = {} if "architecture" in parts else {"feature_coefficient": 0.5}
    agent, metrics = learnt(4, parts, teachers=(two_runs[0], by_ppo), **settings)
    assert isinstance(agent.by_modes, torch.Tensor)
    assert agent.by_modes.tolist() == [False, True]
    assert ("feature_loss" in metrics[0]) == bool(settings)
    assert all(torch.isfinite(value).all() for row in metrics for value in row.values())


def test_heads_of_ppo_can_be_the_students(make_run: MakeRun) -> None:
    runs = tuple(make_run(f"point-mass:{goal}", agent=PPO) for goal in (LEFT, RIGHT))
    assert learnt(2, teachers=runs, squashed=False)[0].by_modes is False
    assert learnt(2, teachers=runs)[0].by_modes is True


def test_who_plays_shifts_from_the_teachers_to_the_student(
    two_runs: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(Distill, Distill.Config(teachers=two_runs, shift_steps=1000), conflict().spec)
    monkeypatch.setattr(agent.teachers, "actions", lambda seen, tasks, noise: torch.full((len(tasks), 2), 9.0))
    observation, tasks = np.zeros((500, 2), np.float32), np.arange(500) % 2

    def taught() -> float:
        return float((agent.act(observation, tasks, explore=True).action == 9.0).mean())

    assert taught() == 1.0
    assert 0.4 < taught() < 0.6
    assert taught() == 0.0
    assert agent.teacher_share == 0.0


def test_what_a_student_cannot_be_is_refused(two_runs: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = conflict().spec
    with pytest.raises(BadInput, match="normalizer 'popart': the agent 'distill' learns no values"):
        make_agent(Distill, Distill.Config(teachers=two_runs), spec, normalizer=PopArt)
    discrete = PointMass("point-mass-conflict-discrete", PointMass.Config(), 1).spec
    with pytest.raises(BadInput, match="'modes' is for continuous actions"):
        make_agent(Distill, Distill.Config(teachers=two_runs, divergence="modes"), discrete)
    monkeypatch.setattr(teachers.Teachers, "representation_sizes", lambda self: [16, 0])
    config = Distill.Config(teachers=two_runs, feature_coefficient=1.0)
    with pytest.raises(BadInput, match=f"the architecture of teacher {two_runs[1]} has no representation"):
        make_agent(Distill, config, spec)


def test_a_killed_student_resumes_bit_for_bit(two_runs: tuple[str, str], tmp_path: Path) -> None:
    agent = student(*two_runs, feature_coefficient=0.1, shift_steps=600)
    config = tiny_config("point-mass-conflict", agent=agent, total_env_steps=800)
    assert in_child(lambda: run.train(config, tmp_path / "whole")) == 0
    assert in_child(lambda: run.train(config, tmp_path / "killed"), at_progress=60) == -9
    assert in_child(lambda: run.resume(tmp_path / "killed", {})) == 0
    assert differences(final_state(tmp_path / "whole"), final_state(tmp_path / "killed")) == []


def test_a_changed_teacher_refuses_a_resume_and_a_missing_one_no_evaluation(
    two_runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left, right = (tmp_path / name for name in ("left", "right"))
    for folder, source in zip((left, right), two_runs, strict=True):
        shutil.copytree(source, folder)
    agent = student(str(left), str(right), feature_coefficient=0.1)
    config = tiny_config("point-mass-conflict", agent=agent, total_env_steps=320, eval_interval=0)
    folder = tmp_path / "student"
    assert run.train(config, folder) == 0
    shutil.rmtree(left)
    # Another teacher of the same task in the same place.
    other = tiny_config(f"point-mass:{LEFT}", seed=7, total_env_steps=160, eval_interval=0)
    assert run.train(other, left) == 0
    with pytest.raises(BadInput, match=rf"the teacher of {LEFT.replace('+', '.')} has changed, sha256 \w+, now \w+$"):
        run.resume(folder, {"total_env_steps": 400})
    shutil.rmtree(left)
    with pytest.raises(BadInput, match=f"teacher {left}: "):
        run.resume(folder, {"total_env_steps": 400})
    assert mtrl.load(str(folder)).predict(np.zeros(2, np.float32), LEFT).shape == (2,)


def test_the_regressors_of_a_sorted_batch_are_those_of_any_part_of_it() -> None:
    regressors = Regressors(3, 2, 3)
    representation, counts = torch.rand(9, 3, generator=torch.Generator().manual_seed(1)), (2, 0, 7)
    tasks = torch.tensor(2 * [0] + 7 * [2])
    whole = regressors(representation, tasks, counts)
    torch.testing.assert_close(whole[1:4], regressors(representation[1:4], tasks[1:4], counts))
    torch.testing.assert_close(whole[5], regressors.weight[2] @ representation[5] + regressors.bias[2])
