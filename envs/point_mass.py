"""Small suites of known optimum: a point that moves in a square to the goal of its task.

Each step the point moves by at most 0.2 along each axis (continuous) or 0.2 along one axis (discrete), and the reward
is 1 minus the L1 distance to the goal. Going straight there is optimal, so the best return has a closed form. Episodes
last 20 steps and never terminate; the 25 variations are start positions on a grid.

Names: `point-mass[-VARIANT][-discrete]`, or `point-mass:GOAL,GOAL` for some of the goals. Shapes: N slots, M tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from mtrl.env.episodes import IDLE, EpisodeSource
from mtrl.env.suite import Mode, Suite, suites
from mtrl.env.vector_env import MultiTaskVectorEnv, RawStep
from mtrl.errors import BadInput
from mtrl.types import SuiteSpec, TaskSpec

EPISODE_STEPS = 20
STEP_LENGTH = 0.2
STARTS = np.array(list(product((-0.8, -0.4, 0.0, 0.4, 0.8), repeat=2)), np.float32)  # (25, 2)
FRAME_SIZE = 36
"""Pixels per side of an image, as few as the encoder `nature` takes."""
POINT_SIZE = 4
# Stay, right, left, up, down, and a second way to stay that only even tasks may use.
MOVES = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (0, 0)], np.float32)


@dataclass(frozen=True)
class Goal:
    """A task: where to go, and how that is rewarded."""

    position: tuple[float, float]
    reward_scale: float = 1.0
    radius: float | None = None  # reward 1 within this L1 distance of the goal and 0 elsewhere; None: by distance


CORNERS = tuple(Goal((x, y)) for x, y in product((-0.8, 0.8), repeat=2))

VARIANTS: Mapping[str, tuple[str, tuple[Goal, ...]]] = {
    "": ("four goals, the task is not in the observation", CORNERS),
    "visible": ("the goal is in the observation", CORNERS),
    "related": ("four goals near one corner", tuple(Goal((x, y)) for x, y in product((0.4, 0.8), repeat=2))),
    "pairs": (
        "two pairs of nearby goals in opposite corners",
        tuple(Goal((x, y)) for x, y in ((0.8, 0.8), (0.8, 0.6), (-0.8, -0.8), (-0.8, -0.6))),
    ),
    "conflict": ("two tasks with opposite optimal actions", (Goal((-0.8, 0.0)), Goal((0.8, 0.0)))),
    "scales": (
        "three tasks, rewards times 1, 10 and 100",
        (Goal((-0.8, 0.0)), Goal((0.8, 0.0), reward_scale=10.0), Goal((0.0, 0.8), reward_scale=100.0)),
    ),
    "scales-1000": (
        "two tasks whose rewards differ by 1000",
        (Goal((-0.8, 0.0)), Goal((0.8, 0.0), reward_scale=1000.0)),
    ),
    "sparse": (
        "four goals, reward 1 at the goal and 0 elsewhere",
        tuple(Goal(goal.position, radius=0.1) for goal in CORNERS),
    ),
    "hard": (
        "seven tasks that any policy solves, and one that has to be learnt",
        (*(Goal((x, 0.0), radius=4.0) for x in (-0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6)), Goal((0.8, 0.8))),
    ),
}


def goal_name(goal: Goal) -> str:
    """The name of a task, such as `goal+0.8-0.8`."""
    return f"goal{goal.position[0]:+.1f}{goal.position[1]:+.1f}"


SINGLE_GOALS = {goal_name(goal): goal for goal in (*CORNERS, *VARIANTS["conflict"][1])}
"""What a list of goals may name."""


@suites.register("point-mass")
class PointMass(Suite):
    """A point in a square, with a known best return: quick tests of learning."""

    suite_names: ClassVar[Mapping[str, str]] = {
        "-".join(filter(None, ("point-mass", variant, suffix))): text + (", discrete actions" if suffix else "")
        for variant, (text, _) in VARIANTS.items()
        for suffix in ("", "discrete")
    }

    def __init__(self, name: str, config: Any, seed: int):
        names, known = name.removeprefix("point-mass:").split(","), PointMass.suite_names
        if name not in known and (not set(names) <= SINGLE_GOALS.keys() or len({*names}) < len(names)):
            raise BadInput(f"unknown suite {name!r}; known: {sorted(known)}, goals: {sorted(SINGLE_GOALS)}")
        self.discrete = name.endswith("-discrete")
        variant = name.removeprefix("point-mass").removesuffix("-discrete").removeprefix("-")
        self.goals = VARIANTS[variant][1] if name in known else tuple(SINGLE_GOALS[own] for own in names)
        self.goal_visible = variant == "visible"
        self.images = False
        tasks = tuple(
            TaskSpec(
                name=goal_name(goal),
                index=index,
                max_episode_steps=EPISODE_STEPS,
                num_variations=len(STARTS),
                target_return=float(np.mean([self.optimal_return(index, start) for start in range(len(STARTS))])),
            )
            for index, goal in enumerate(self.goals)
        )
        legal = np.ones((len(tasks), len(MOVES)), bool)
        legal[1::2, -1] = False
        self.spec = SuiteSpec(
            name=name,
            tasks=tasks,
            observation_space=gym.spaces.Box(-1, 1, (4 if self.goal_visible else 2,), np.float32),
            action_space=gym.spaces.Discrete(len(MOVES)) if self.discrete else gym.spaces.Box(-1, 1, (2,), np.float32),
            action_mask=legal if self.discrete else None,
            protocol="point-mass",
            settings={"episode_steps": EPISODE_STEPS, "starts": len(STARTS)},
        )

    @classmethod
    def accepts(cls, name: str) -> bool:
        return super().accepts(name) or name.startswith("point-mass:")

    def optimal_return(self, task: int, variation: int) -> float:
        """The best return from a start."""
        goal = self.goals[task]
        distance = np.abs(STARTS[variation] - np.array(goal.position))
        if self.discrete:
            distance = distance.sum(keepdims=True)
        moved = STEP_LENGTH * np.arange(1, EPISODE_STEPS + 1)[:, None]
        left = np.maximum(0, distance - moved).sum(1)
        rewards = 1 - left if goal.radius is None else (left <= goal.radius + 1e-6).astype(float)
        return float(goal.reward_scale * rewards.sum())

    def make_envs(
        self, num_envs: int, episodes: EpisodeSource, *, mode: Mode, num_workers: int, worker_timeout: float
    ) -> MultiTaskVectorEnv:
        return PointMassEnvs(self, num_envs, episodes)


@suites.register("point-mass-pixels")
class PointMassPixels(PointMass):
    """The point in a square as an image, rewarded at the goal alone: quick tests of features that are learnt."""

    suite_names: ClassVar[Mapping[str, str]] = {
        "point-mass-pixels": "four goals, images of the point, discrete actions, reward 1 at the goal and 0 elsewhere"
    }

    def __init__(self, name: str, config: Any, seed: int):
        if name not in self.suite_names:
            raise BadInput(f"unknown suite {name!r}; known: {sorted(self.suite_names)}")
        super().__init__("point-mass-sparse-discrete", config, seed)
        space = gym.spaces.Box(0, 255, (1, FRAME_SIZE, FRAME_SIZE), np.uint8)
        self.spec = replace(self.spec, name=name, observation_space=space, score="success")
        self.images = True

    @classmethod
    def accepts(cls, name: str) -> bool:
        return name in cls.suite_names


class PointMassEnvs(MultiTaskVectorEnv):
    """All slots in this process, as arrays."""

    def __init__(self, suite: PointMass, num_envs: int, episodes: EpisodeSource):
        super().__init__(suite.spec, num_envs, episodes)
        self.suite = suite
        self._goals = np.array([goal.position for goal in suite.goals], np.float32)  # (M, 2)
        self._scale = np.array([goal.reward_scale for goal in suite.goals], np.float32)
        self._dense = np.array([goal.radius is None for goal in suite.goals])
        self._radius = np.array([goal.radius or 0.0 for goal in suite.goals], np.float32)
        self._position = np.zeros((num_envs, 2), np.float32)
        self._playing = np.full(num_envs, IDLE)  # (N,) task
        self._step = np.zeros(num_envs, np.int64)

    def _start(self, tasks: np.ndarray, variations: np.ndarray) -> np.ndarray:
        self._playing[:] = tasks
        self._position[:] = STARTS[variations]
        self._step[:] = 0
        return self._observe()

    def _send(self, action: np.ndarray, next_tasks: np.ndarray, next_variations: np.ndarray) -> None:
        self._pending = action, next_tasks, next_variations

    def _recv(self) -> RawStep:
        action, next_tasks, next_variations = self._pending
        move = MOVES[action] if self.suite.discrete else np.clip(action, -1, 1)
        self._position[:] = np.clip(self._position + np.float32(STEP_LENGTH) * move, -1, 1)
        self._step += 1
        distance = np.abs(self._position - self._goals[self._playing]).sum(1)
        near = (distance <= self._radius[self._playing] + 1e-6).astype(np.float32)
        reward = self._scale[self._playing] * np.where(self._dense[self._playing], 1 - distance, near)
        truncated = self._step >= EPISODE_STEPS
        final_observation = self._observe()
        self._playing = np.where(truncated, next_tasks, self._playing)
        self._position[truncated] = STARTS[next_variations[truncated]]
        self._step[truncated] = 0
        return RawStep(
            observation=self._observe(),
            reward=reward.astype(np.float32),
            terminated=np.zeros(self.num_envs, bool),
            truncated=truncated,
            success=distance <= 0.1 + 1e-6,
            final_observation=final_observation,
        )

    def _replay(self, tasks: np.ndarray, variations: np.ndarray, actions: list[np.ndarray]) -> np.ndarray:
        self._playing[:] = tasks
        for slot, played in enumerate(actions):
            position = STARTS[variations[slot]]
            for action in played:
                move = MOVES[action] if self.suite.discrete else np.clip(action, -1, 1)
                position = np.clip(position + np.float32(STEP_LENGTH) * move, -1, 1)
            self._position[slot] = position
            self._step[slot] = len(played)
        return self._observe()

    def _observe(self) -> np.ndarray:
        if self.suite.images:
            return frames(self._position)
        if self.suite.goal_visible:
            return np.concatenate([self._position, self._goals[self._playing]], axis=1)
        return self._position.copy()

    def close(self) -> None:
        pass


def frames(positions: np.ndarray) -> np.ndarray:
    """Images (N, 1, FRAME_SIZE, FRAME_SIZE) uint8 of points (N, 2) in [-1, 1]: a bright square on a dark ground."""
    images = np.zeros((len(positions), 1, FRAME_SIZE, FRAME_SIZE), np.uint8)
    corner = np.rint((positions + 1) / 2 * (FRAME_SIZE - POINT_SIZE)).astype(np.int64)
    side = np.arange(POINT_SIZE)
    rows, columns = (corner[:, axis, None] + side for axis in (1, 0))
    images[np.arange(len(positions))[:, None, None], 0, rows[:, :, None], columns[:, None, :]] = 255
    return images
