"""A student learns from teachers in a fraction of the env steps that SAC takes, and fails where it must."""

from __future__ import annotations

from typing import Any

import pytest

from agents.distillation.distill import Distill
from mtrl.evaluation.evaluator import EvaluationResult
from mtrl.networks.hard_sharing.mlp import MLP
from tests.agents.distillation.conftest import LEFT, RIGHT, MakeRun
from tests.training.test_learning import MARGIN, NUM_ENVS, SETTINGS, SMALL_MLP, optimum, point_mass, returns_of

EXPERT: dict[str, Any] = {
    "agent": {"name": "sac", **SETTINGS, "batch_size": 64},
    "architecture": {"name": "mlp", "width": 64, "depth": 2},
    "num_envs": NUM_ENVS,
    "total_env_steps": 240 * NUM_ENVS,
}
STUDENT: dict[str, Any] = {"batch_size": 128, "learning_rate": 3e-3, "shift_steps": 60 * NUM_ENVS}


def taught(
    suite: str, teachers: tuple[str, ...], vector_steps: int, parts: dict[str, Any] | None = None, **settings: Any
) -> EvaluationResult:
    """The student's returns on every start of every task."""
    config = Distill.Config(teachers=teachers, **STUDENT | settings)
    return returns_of(Distill, config, point_mass(suite), vector_steps, parts)


@pytest.fixture
def two_experts(make_run: MakeRun) -> tuple[str, str]:
    return make_run(f"point-mass:{LEFT}", **EXPERT), make_run(f"point-mass:{RIGHT}", **EXPERT)


def test_a_student_learns_opposite_optimal_actions_in_a_fifth_of_the_steps(two_experts: tuple[str, str]) -> None:
    suite = point_mass("point-mass-conflict")
    result = taught("point-mass-conflict", two_experts, 80)  # SAC takes 400
    assert (result.mean_returns >= optimum(suite) - MARGIN).all(), result.mean_returns


def test_a_student_that_does_not_know_the_task_cannot(two_experts: tuple[str, str]) -> None:
    # See test_sac_cannot_learn_opposite_optimal_actions_without_the_task: 20 steps of 0.2 at most.
    blind = {"architecture_config": MLP.Config(width=64, depth=2, task_input="none")}
    result = taught("point-mass-conflict", two_experts, 80, blind)
    assert result.mean_returns.mean() <= 20 * 0.2 + 1e-3, result.mean_returns


def four_experts(make_run: MakeRun) -> tuple[str, ...]:
    longer = EXPERT | {"total_env_steps": 500 * NUM_ENVS}
    return tuple(make_run(f"point-mass:{name}", **longer) for name in point_mass("point-mass").spec.task_names)


@pytest.mark.full
@pytest.mark.parametrize("divergence", ["forward", "reverse", "modes"])
def test_four_experts_teach_one_network_in_a_fifth_of_the_steps(make_run: MakeRun, divergence: str) -> None:
    suite = point_mass("point-mass")
    result = taught("point-mass", four_experts(make_run), 120, SMALL_MLP, divergence=divergence)  # SAC takes 600
    assert (result.mean_returns >= optimum(suite) - MARGIN).all(), result.mean_returns


@pytest.mark.full
def test_four_experts_teach_with_their_representations_too(make_run: MakeRun) -> None:
    suite = point_mass("point-mass")
    result = taught("point-mass", four_experts(make_run), 120, SMALL_MLP, feature_coefficient=0.1)
    assert (result.mean_returns >= optimum(suite) - MARGIN).all(), result.mean_returns
