"""Names and values in rows of metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest

from envs.atari.suite import Atari
from envs.point_mass import PointMass
from mtrl.loggers.metric_rows import episode_metrics, evaluation_metrics, per_task, scalars, update_metrics
from mtrl.runs.logs import EvaluationRow

TASKS = ("a", "b")


def test_a_metric_per_task_has_a_mean_of_what_is_known() -> None:
    assert per_task("train/return", TASKS, [1.0, None]) == {
        "train/return/a": 1.0,
        "train/return/b": None,
        "train/mean_return": 1.0,
    }
    assert per_task("x/y", TASKS, [math.nan, math.nan])["x/mean_y"] is None


def test_what_is_not_known_of_an_update_is_none() -> None:
    row = update_metrics({"critic_loss": [math.nan, 3.0], "clipped": math.nan}, TASKS)
    assert row == {
        "losses/critic_loss/a": None,
        "losses/critic_loss/b": 3.0,
        "losses/mean_critic_loss": 3.0,
        "train/clipped": None,
    }


def test_losses_and_other_metrics_of_an_agent_have_a_group_each() -> None:
    row = update_metrics({"critic_loss": [1.0, 3.0], "entropy": [2.0, 4.0], "clipped": 0.5, "actor/kl": [0, 1]}, TASKS)
    assert row == {
        "losses/critic_loss/a": 1.0,
        "losses/critic_loss/b": 3.0,
        "losses/mean_critic_loss": 2.0,
        "train/entropy/a": 2.0,
        "train/entropy/b": 4.0,
        "train/mean_entropy": 3.0,
        "train/clipped": 0.5,
        "actor/kl/a": 0,
        "actor/kl/b": 1,
        "actor/mean_kl": 0.5,
    }


def test_a_matrix_per_task_keeps_its_shape_and_is_no_curve() -> None:
    row = update_metrics({"actor/routing": [[[1.0, 0.0]], [[0.5, 0.5]]]}, TASKS)
    assert row == {"actor/routing/a": [[1.0, 0.0]], "actor/routing/b": [[0.5, 0.5]]}
    assert scalars({"env_steps": 1, "eval/kind": "final", "a": 2, "b": None, **row}) == {"a": 2}


def test_an_evaluation_has_the_headline_numbers() -> None:
    spec = PointMass("point-mass", PointMass.Config(), 1).spec
    rows = [EvaluationRow(80, name, 5, 0.5, float(index), "final") for index, name in enumerate(spec.task_names)]
    row = evaluation_metrics(spec, rows)
    assert row["env_steps"] == 80
    assert row["eval/kind"] == "final"
    assert row["eval/episodes_per_task"] == 5
    assert row["eval/mean_return"] == 1.5
    assert row["eval/mean_success_rate"] == 0.5
    assert [row[f"eval/return/{name}"] for name in spec.task_names] == [0.0, 1.0, 2.0, 3.0]
    assert row["eval/q_am"] == pytest.approx(np.clip(np.arange(4) / spec.target_scores, 0, 1).mean())


def test_atari_has_normalised_scores() -> None:
    spec = Atari("atari:pong,breakout", Atari.Config(), 1).spec
    human, random = (np.array([getattr(task, f"{who}_return") for task in spec.tasks]) for who in ("human", "random"))
    halfway = (human + random) / 2
    row = episode_metrics(spec, np.array([halfway[0], np.nan]), np.array([0.0, np.nan]))
    first, second = spec.task_names
    assert row[f"train/human_normalised_score/{first}"] == pytest.approx(0.5)
    assert row[f"train/human_normalised_score/{second}"] is None
    assert row["train/mean_human_normalised_score"] == pytest.approx(0.5)
    assert row["train/median_human_normalised_score"] is None
