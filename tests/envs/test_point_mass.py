"""The known optimum of the point-mass suites. Shapes: N slots, M tasks."""

from __future__ import annotations

import re

import numpy as np
import pytest

from envs.point_mass import EPISODE_STEPS, STARTS, STEP_LENGTH, PointMass, PointMassPixels
from mtrl.env.episodes import ListedEpisodes
from mtrl.env.suite import find_suite
from mtrl.errors import BadInput


def point_mass(name: str) -> PointMass:
    return PointMass(name, PointMass.Config(), 1)


def test_the_optimum_of_scaled_rewards_worked_by_hand() -> None:
    # From a distance of 0.2 n along an axis, n (n - 1) / 2 * 0.2 is left over the steps. Towards (-0.8, 0) n is 0, 2,
    # 4, 6 or 8 along x and 4, 2, 0, 2 or 4 along y: 2.0 and 0.56 on average. The three goals are turned copies.
    suite = point_mass("point-mass-scales")
    assert [goal.reward_scale for goal in suite.goals] == [1, 10, 100]
    assert [task.target_return for task in suite.spec.tasks] == pytest.approx([17.44, 174.4, 1744])


def test_a_list_of_goals_is_a_suite() -> None:
    suite = find_suite("point-mass:goal+0.8-0.8,goal-0.8+0.0")("point-mass:goal+0.8-0.8,goal-0.8+0.0", None, 1)
    assert suite.spec.task_names == ("goal+0.8-0.8", "goal-0.8+0.0")
    assert suite.spec.tasks[0].target_return == point_mass("point-mass").spec.tasks[2].target_return
    for name in ("point-mass:", "point-mass:goal+0.8", "point-mass:goal+0.8-0.8,goal+0.8-0.8"):
        with pytest.raises(BadInput, match=f"unknown suite '{re.escape(name)}'"):
            point_mass(name)


@pytest.mark.parametrize("name", [name for name in PointMass.suite_names if not name.endswith("discrete")])
def test_going_straight_to_the_goal_reaches_the_optimum(name: str) -> None:
    suite = point_mass(name)
    for index, (task, goal) in enumerate(zip(suite.spec.tasks, suite.goals, strict=True)):
        episodes = ListedEpisodes([[(index, start)] for start in range(len(STARTS))])
        envs = suite.make_envs(len(STARTS), episodes, mode="evaluate", num_workers=0, worker_timeout=1.0)
        observation, returns = envs.reset(), np.zeros(len(STARTS))
        for _ in range(EPISODE_STEPS):
            way = np.array(goal.position, np.float32) - observation[:, :2]
            step = envs.step(np.clip(way / STEP_LENGTH, -1, 1).astype(np.float32))
            observation, returns = step.observation, returns + step.reward
        assert returns.mean() == pytest.approx(task.target_return, rel=1e-4)


def test_the_image_shows_the_point_and_only_the_goal_is_rewarded() -> None:
    suite = PointMassPixels("point-mass-pixels", PointMassPixels.Config(), 1)
    assert suite.spec.observation_space.shape == (1, 36, 36)
    # From (-0.8, -0.8) to the goal of the last task, (0.8, 0.8): eight steps right, eight up.
    envs = suite.make_envs(1, ListedEpisodes([[(3, 0)]]), mode="evaluate", num_workers=0, worker_timeout=1.0)
    observation, rewards, seen = envs.reset(), [], []
    for step in range(17):
        seen.append(np.argwhere(observation[0, 0] == 255).mean(0))
        result = envs.step(np.array([1 if step < 8 else 3 if step < 16 else 0]))
        observation = result.observation
        rewards.append(float(result.reward[0]))
    assert rewards == [0.0] * 15 + [1.0] * 2
    # Rows go with y, columns with x: 0.9 and 0.1 of the 32 places, plus half a point.
    assert np.allclose(seen[0], 3 + 1.5)
    assert np.allclose(seen[8], (3 + 1.5, 29 + 1.5))
    assert np.allclose(seen[16], 29 + 1.5)
    assert suite.spec.score == "success"
