"""The Meta-World suites: which tasks and goals they have, and their environments.

Importing this module, and making a suite whose goals are cached, imports no simulator.
"""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from pydantic import Field

from envs.metaworld import goals as goal_store
from envs.metaworld.envpool import EnvPoolEnvs, check_installed, description
from envs.metaworld.factory import WORKER_MODULES, MetaWorldFactory
from envs.metaworld.presets import presets
from envs.metaworld.tasks import STEP_COSTS, parse, suggested_name
from envs.workers.child_process import warm_up
from envs.workers.pool import WorkerPool
from mtrl.env.episodes import EpisodeSource
from mtrl.env.suite import Mode, RenderedEpisode, Suite, SuiteOutline, suites
from mtrl.env.vector_env import MultiTaskVectorEnv
from mtrl.errors import BadInput
from mtrl.types import SuiteSpec, TaskSpec

HORIZON = 500
OBSERVATION_SPACE = gym.spaces.Box(-np.inf, np.inf, (39,), np.float32)
ACTION_SPACE = gym.spaces.Box(-1, 1, (4,), np.float32)
RENDERERS = {"EGL": "egl", "OSMesa": "osmesa", "GL": "glfw, with a display"}
"""MuJoCo's backends by the library that each needs."""
_WITH_TASKS = ("mt1-", "metaworld:", "ml10-train:", "ml10-test:", "ml45-train:", "ml45-test:")
"""How names begin that go on with tasks."""


@suites.register("metaworld")
class MetaWorld(Suite):
    """Official environments, observations (39,), 500 env steps, 50 goals per task.

    The observation holds the goal; in the splits of ML10 and ML45 it has zeros in its place.

    Variation v of a task is goal v of the official benchmark object of the same seed. Those take seeds below 2**32; the
    goals of a larger seed are those of its remainder, which the protocol's settings record as `goals_seed`.
    """

    suite_names: ClassVar[Mapping[str, str]] = {
        "mt3": "reach, drawer-close and window-close with the goals of MT10; the quick one",
        "mt10": "the 10 tasks and goals of Meta-World MT10",
        "mt25": "the 25 tasks and goals of Meta-World MT25",
        "mt50": "the 50 tasks and goals of Meta-World MT50",
        "ml10-train": "the 10 training tasks of Meta-World ML10, the goal hidden",
        "ml10-test": "its 5 test tasks; ml10-test:TASK,TASK plays some of them",
        "ml45-train": "the 45 training tasks of Meta-World ML45, the goal hidden",
        "ml45-test": "its 5 test tasks; ml45-test:TASK,TASK plays some of them",
        "mt1-TASK": "one task with the goals of Meta-World MT1, e.g. mt1-reach",
        "metaworld:TASK,TASK": "any tasks, each with the goals of Meta-World MT1, e.g. metaworld:reach,push",
    }

    packages = ("metaworld", "mujoco")

    @dataclass(frozen=True, kw_only=True)
    class Config:
        reward_function: Literal["v1", "v2"] = "v2"  # Meta-World's dense reward, first or second version
        env_backend: Literal["official", "envpool"] = (
            "official"  # trains in EnvPool's environments: other goals, physics
        )
        goals: tuple[Annotated[int, Field(ge=0, lt=goal_store.NUM_GOALS)], ...] = ()  # numbers of those played; (): all

    def __init__(self, name: str, config: Config, seed: int):
        """Raises BadInput for an unknown name or task. Computes the goals if they are not cached."""
        self.config = config
        self._seed = seed
        named = parse(name)
        if config.env_backend == "envpool":
            check_installed()
            if config.reward_function != "v2":
                raise BadInput("--suite.env-backend envpool has reward function v2 only")
            if named.hides_goals or config.goals:
                raise BadInput("--suite.env-backend envpool draws goals of its own: no suites of ML, no --suite.goals")
        if len(set(config.goals)) < len(config.goals):
            raise BadInput(f"suite.goals: {list(config.goals)} names a goal twice")
        goals_seed = seed % goal_store.GOAL_SEEDS
        of_benchmark = {
            benchmark: goal_store.benchmark_goals(benchmark, goals_seed) for benchmark in sorted(set(named.benchmarks))
        }
        goals = {
            task: of_benchmark[benchmark][task] for task, benchmark in zip(named.tasks, named.benchmarks, strict=True)
        }
        if config.goals:
            goals = {task: vectors[list(config.goals)] for task, vectors in goals.items()}
        num_goals = len(config.goals) or goal_store.NUM_GOALS
        self.goals = tuple(goals.values())  # of each task (num_goals, G)
        self._hides_goals = named.hides_goals
        self.spec = SuiteSpec(
            name=named.name if config.env_backend == "official" else f"{named.name}-{config.env_backend}",
            tasks=tuple(
                TaskSpec(name=task, index=index, max_episode_steps=HORIZON, num_variations=num_goals)
                for index, task in enumerate(named.tasks)
            ),
            observation_space=OBSERVATION_SPACE,
            action_space=ACTION_SPACE,
            score="success",
            protocol="metaworld-plus",
            settings={
                **{package: importlib.metadata.version(package) for package in self.packages},
                "reward_function": config.reward_function,
                "horizon": HORIZON,
                "num_goals": num_goals,
                **({"goals": list(config.goals)} if config.goals else {}),
                **({"goal": "hidden, zeros in the observation"} if named.hides_goals else {}),
                "goals_seed": goals_seed,
                "goals_sha256": goal_store.digest(goals),
                "tasks": list(named.tasks),
                "success": "at any step; an evaluation episode ends there",
                **({} if config.env_backend == "official" else {"trained_in": description()}),
            },
            seed_settings=("goals_seed", "goals_sha256"),
            task_settings=("tasks",),
        )

    @classmethod
    def accepts(cls, name: str) -> bool:
        return name in cls.suite_names or name.startswith(_WITH_TASKS)

    @classmethod
    def suggestion(cls, name: str) -> str | None:
        return suggested_name(name)

    @classmethod
    def outline(cls, name: str) -> SuiteOutline:
        return SuiteOutline(parse(name).tasks, OBSERVATION_SPACE, ACTION_SPACE)  # without the goals

    @classmethod
    def presets(cls, name: str, agent: str) -> Mapping[str, Mapping[str, Any]]:
        return presets(name, len(parse(name).tasks), agent)

    @classmethod
    def warm_up(cls) -> None:
        warm_up(WORKER_MODULES)

    @classmethod
    def diagnose(cls) -> Iterable[tuple[str, str]]:
        """What renders, and where goals are kept. No simulator is imported."""
        # Looked for by name: importing MuJoCo's renderers has side effects, and training needs none.
        found = [backend for library, backend in RENDERERS.items() if ctypes.util.find_library(library)]
        chosen = os.environ.get("MUJOCO_GL", "not set")
        yield "rendering", f"{', '.join(found) or 'no backend (videos need one)'}; MUJOCO_GL {chosen}"
        yield "goals cache", goal_store.describe_cache()

    def make_envs(
        self, num_envs: int, episodes: EpisodeSource, *, mode: Mode, num_workers: int, worker_timeout: float
    ) -> MultiTaskVectorEnv:
        if mode == "train" and self.config.env_backend == "envpool":
            return EnvPoolEnvs(self.spec, num_envs, episodes, self._seed)
        factory = self._factory(mode)
        if num_workers:
            self.warm_up()
        return WorkerPool(
            self.spec,
            num_envs,
            episodes,
            factory,
            num_workers=num_workers,
            worker_timeout=worker_timeout,
            step_costs=[STEP_COSTS[task] for task in self.spec.task_names],
        )

    def render_episode(self, task: int, variation: int, act: Callable[[np.ndarray], np.ndarray]) -> RenderedEpisode:
        from envs.metaworld.render import render_episode

        return render_episode(self._factory("evaluate"), task, variation, act)

    def _factory(self, mode: Mode) -> MetaWorldFactory:
        return MetaWorldFactory(
            task_names=self.spec.task_names,
            goals=self.goals,
            hides_goals=self._hides_goals,
            reward_function=self.config.reward_function,
            end_at_success=mode == "evaluate",
        )
