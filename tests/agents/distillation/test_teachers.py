"""Teachers are what their runs are, in any order, and what cannot teach is refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mtrl
from agents.distillation.teachers import Teachers
from envs.point_mass import PointMass
from mtrl.data_parallel.learning import learning
from mtrl.data_parallel.ranks import WORLD
from mtrl.errors import BadInput
from mtrl.seeding import torch_stream
from mtrl.types import SuiteSpec
from tests.agents.distillation.conftest import LEFT, PPO, RIGHT, MakeRun, delete_checkpoints

CPU = torch.device("cpu")


def spec(name: str = "point-mass-conflict") -> SuiteSpec:
    return PointMass(name, PointMass.Config(), 1).spec


def teachers(*runs: str, suite: str = "point-mass-conflict") -> Teachers:
    return Teachers(runs, spec(suite), "latest", CPU)


@pytest.fixture
def two_runs(make_run: MakeRun) -> tuple[str, str]:
    return make_run(f"point-mass:{LEFT}", seed=1), make_run(f"point-mass:{RIGHT}", seed=2)


OBSERVATION = torch.rand(7, 2, generator=torch_stream(1, "test teachers"))
COUNTS = (3, 4)


def test_each_task_is_taught_by_its_run(two_runs: tuple[str, str]) -> None:
    columns = teachers(*two_runs).columns(OBSERVATION, COUNTS)
    rows = OBSERVATION.numpy()
    own = [mtrl.load(two_runs[0]).predict(rows[:3], LEFT), mtrl.load(two_runs[1]).predict(rows[3:], RIGHT)]
    np.testing.assert_allclose(columns["mode"].numpy(), np.concatenate(own), rtol=0, atol=1e-6)
    torch.testing.assert_close(columns["mean"].tanh(), columns["mode"])
    assert not columns["mode"].requires_grad


def test_teachers_in_any_order_teach_the_same(two_runs: tuple[str, str]) -> None:
    first, second = (teachers(*runs).columns(OBSERVATION, COUNTS) for runs in (two_runs, two_runs[::-1]))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert list(first) == list(second)


def test_each_teacher_is_called_once_and_not_without_rows(
    two_runs: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, calls = teachers(*two_runs), []
    for index, teacher in enumerate(own.of_task):
        teacher.average.policy.register_forward_hook(lambda *_, index=index: calls.append(index))
    own.columns(OBSERVATION, COUNTS)
    own.columns(OBSERVATION, (0, 7))
    assert calls == [0, 1, 1]


def test_a_rank_asks_no_other_rank_about_its_teachers(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    # A routed policy takes means over the rows of all ranks, and the ranks' rows may be of other tasks.
    routed = {"name": "routing", "num_modules": 2, "width": 8, "depth": 2}
    own = teachers(*(make_run(f"point-mass:{task}", architecture=routed) for task in (LEFT, RIGHT)))
    monkeypatch.setattr(WORLD, "size", 2)
    with learning():
        columns = own.columns(OBSERVATION, (7, 0))
    assert columns["mean"].shape == (7, 2)


def test_a_run_of_many_tasks_teaches_those_that_it_knows(make_run: MakeRun, two_runs: tuple[str, str]) -> None:
    both = make_run("point-mass-conflict", seed=3)
    alone = teachers(both)
    assert alone.of_task[0] is alone.of_task[1]
    mixed = teachers(f"{RIGHT}={both}", two_runs[0])
    assert [teacher.run for teacher in mixed.of_task] == [two_runs[0], both]
    whole, parts = alone.columns(OBSERVATION, COUNTS), mixed.columns(OBSERVATION, COUNTS)
    torch.testing.assert_close(parts["mean"][3:], whole["mean"][3:])
    assert not torch.allclose(parts["mean"][:3], whole["mean"][:3])


def test_actions_are_the_teachers_in_any_order_of_rows(two_runs: tuple[str, str]) -> None:
    own, task_ids = teachers(*two_runs), np.array([1, 0, 1, 0, 0, 1, 1])
    noise = torch.zeros(7, 2)
    order = np.argsort(task_ids, kind="stable")
    sorted_modes = own.columns(OBSERVATION[order], COUNTS)["mode"]
    torch.testing.assert_close(own.actions(OBSERVATION, task_ids, noise)[order], sorted_modes)


def test_representations_of_several_sizes_are_filled_up(make_run: MakeRun, two_runs: tuple[str, str]) -> None:
    wide = make_run(f"point-mass:{RIGHT}", architecture={"name": "mlp", "width": 24, "depth": 1})
    own = teachers(two_runs[0], wide)
    assert own.representation_sizes() == [16, 24]
    features = own.columns(OBSERVATION, COUNTS, 24)["features"]
    assert features.shape == (7, 24)
    assert not features[:3, 16:].any()


def refusal(*runs: str, suite: str = "point-mass-conflict") -> str:
    with pytest.raises(BadInput) as refused:
        teachers(*runs, suite=suite)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_what_cannot_teach_is_refused(make_run: MakeRun, two_runs: tuple[str, str], tmp_path: Path) -> None:
    left, right = two_runs
    assert f"no teacher for {RIGHT}" in refusal(left)
    assert f"no teacher for {LEFT}, {RIGHT}" in refusal()
    assert f"teacher {tmp_path}/nothing: " in refusal(left, f"{tmp_path}/nothing")
    assert f"task '{LEFT}' has two teachers" in refusal(left, right, left)
    assert "unknown task 'goal-0.8'" in refusal(right, f"goal-0.8={left}")
    assert f"was not trained on task '{RIGHT}'; it knows ['{LEFT}']" in refusal(f"{RIGHT}={left}")
    corner = make_run("point-mass:goal+0.8+0.8")
    assert "was trained on suite 'point-mass:goal+0.8+0.8' and knows no task of" in refusal(left, right, corner)
    discrete: dict[str, Any] = {"agent": PPO, "total_env_steps": 80}
    other = make_run("point-mass-conflict-discrete", **discrete)
    assert f"has actions (2,) float32, teacher {other} was trained with 0 to 5" in refusal(other)
    visible = make_run("point-mass-visible", total_env_steps=80)
    assert f"has observations (2,) float32, teacher {visible} was trained with (4,)" in refusal(visible)
    young = tmp_path / "young"
    shutil.copytree(left, young)
    delete_checkpoints(str(young))
    assert f"teacher {young}: " in refusal(str(young), right)
