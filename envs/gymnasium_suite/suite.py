"""Any registered Gymnasium environments as one suite, such as `gym:CartPole-v1,Acrobot-v1`.

Observations are padded with zeros to the largest, discrete actions are masked to each task's own, and boxes are scaled
to [-1, 1] and padded. Making a suite makes each environment once, since only they know their spaces. Shapes: M tasks.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from pydantic import PositiveInt

from envs.gymnasium_suite.environments import Recipe
from envs.gymnasium_suite.factory import WORKER_MODULES, GymnasiumFactory
from envs.gymnasium_suite.names import KNOWN_PACKAGES, PREFIX, parse, suggested_name
from envs.gymnasium_suite.presets import fast
from envs.gymnasium_suite.probe import Look, look_at, repeats_exactly
from envs.gymnasium_suite.spaces import BoxAction, DiscreteAction, ImageObservation, VectorObservation
from envs.workers.child_process import warm_up
from envs.workers.pool import WorkerPool
from mtrl.env.episodes import EpisodeSource
from mtrl.env.suite import Mode, RenderedEpisode, Suite, suites
from mtrl.env.vector_env import MultiTaskVectorEnv
from mtrl.errors import BadInput
from mtrl.registry import CodeName, nearest, trusted_function, trusted_modules
from mtrl.types import Score, SuiteSpec, TaskSpec


@suites.register("gym")
class GymnasiumSuite(Suite):
    """Registered Gymnasium environments with one kind of observation (vectors or pixels) and one kind of action.

    Variation v of a task is `reset(seed=v % (2**31 - 1) + 1)`. A task's time limit is the registered one.
    """

    suite_names: ClassVar[Mapping[str, str]] = {
        "gym:ENV,ENV": "any registered Gymnasium environments, e.g. gym:CartPole-v1,Acrobot-v1",
    }

    packages: tuple[str, ...] = ("gymnasium",)
    recipe_class: ClassVar[type[Recipe]] = Recipe

    @dataclass(frozen=True, kw_only=True)
    class Config:
        import_: tuple[CodeName, ...] = ()  # modules that register environments (in YAML: import_)
        wrappers: tuple[CodeName, ...] = ()  # MODULE:FUNCTION, called with each environment, from the inside out
        env_kwargs: dict[str, Any] = field(
            default_factory=dict
        )  # arguments of gymnasium.make: of all tasks, or by task
        max_episode_steps: PositiveInt | None = None  # time limit of every task in env steps; None: the registered one
        score: Literal["auto", "success", "return"] = "auto"  # auto: success if all environments report it
        samples_policy: bool = False  # evaluate with actions drawn from the policy, not with its mode
        target_returns: dict[str, float] = field(default_factory=dict)  # by task; others: the registered threshold
        random_returns: dict[str, float] = field(default_factory=dict)  # by task, of a random policy
        human_returns: dict[str, float] = field(default_factory=dict)  # by task, for human-normalised scores
        exact_resume: Literal["auto", "always", "never"] = "auto"  # replay running episodes; auto: if two tries agree

    def __init__(self, name: str, config: Config, seed: int):
        """Raises BadInput for environments that are not registered, or cannot be in one suite."""
        self.config = config
        named = parse(name)
        for module in config.import_:
            if module not in trusted_modules():
                raise BadInput(f"{module!r} is code that this command line does not name; add --plugin {module}")
        for wrapper in config.wrappers:
            trusted_function(wrapper)
        arguments = _arguments(config, tuple(named))
        self.recipes = tuple(
            self.recipe_class(environment=environment, arguments=arguments[task], wrappers=config.wrappers)
            for task, environment in named.items()
        )
        looks = {task: look_at(task, recipe) for task, recipe in zip(named, self.recipes, strict=True)}
        self.interfaces = tuple(look.interface for look in looks.values())
        action_space, action_mask = _actions(name, looks)
        self._reports_success = all(look.reports_success for look in looks.values())
        score: Score = "success" if self._reports_success else "return"
        if config.score != "auto":
            score = config.score
        targets = {task: look.target_return for task, look in looks.items()} | _by_task(config, "target_returns", looks)
        if score == "success" and not self._reports_success:
            _refuse_no_target(targets)
        random, human = _references(config, looks)
        versions = _versions(look.module for look in looks.values())
        self.packages = tuple(versions)
        self.spec = SuiteSpec(
            name=PREFIX + ",".join(task if task == own else f"{task}={own}" for task, own in named.items()),
            tasks=tuple(
                TaskSpec(
                    name=task,
                    index=index,
                    max_episode_steps=_time_limit(task, look),
                    random_return=random.get(task),
                    human_return=human.get(task),
                    target_return=targets[task],
                )
                for index, (task, look) in enumerate(looks.items())
            ),
            observation_space=_observation_space(name, looks),
            action_space=action_space,
            action_mask=action_mask,
            score=score,
            protocol="gymnasium",
            samples_policy=config.samples_policy,
            settings={
                **versions,
                "environments": ", ".join(named.values()),
                **({"env_kwargs": config.env_kwargs} if config.env_kwargs else {}),
                **({"wrappers": ", ".join(config.wrappers)} if config.wrappers else {}),
                "max_episode_steps": ", ".join(str(_time_limit(task, look)) for task, look in looks.items()),
                "evaluation_actions": "drawn from the policy" if config.samples_policy else "mode of the policy",
                "success": "as the environments report it" if self._reports_success else "a return of the target",
            },
            task_settings=("environments", "max_episode_steps"),
        )

    @classmethod
    def accepts(cls, name: str) -> bool:
        return name.startswith(PREFIX)

    @classmethod
    def suggestion(cls, name: str) -> str | None:
        return suggested_name(name)

    @classmethod
    def presets(cls, name: str, agent: str) -> Mapping[str, Mapping[str, Any]]:
        return {"fast": fast(1 + name.count(","), agent)}

    @classmethod
    def diagnose(cls) -> Iterable[tuple[str, str]]:
        """How many environments are registered, and which packages that are known to register more are installed."""
        yield "registered", f"{len(gym.registry)} environments of Gymnasium itself"
        for package in dict.fromkeys(KNOWN_PACKAGES.values()):
            starts = ", ".join(f"{start}..." for start, own in KNOWN_PACKAGES.items() if own == package)
            try:
                yield package, f"{importlib.metadata.version(package)}: {starts}"
            except importlib.metadata.PackageNotFoundError:
                yield package, f"not installed (for {starts})"

    def make_envs(
        self, num_envs: int, episodes: EpisodeSource, *, mode: Mode, num_workers: int, worker_timeout: float
    ) -> MultiTaskVectorEnv:
        """Both modes play the same episodes: a success ends none that the environment itself does not end."""
        if num_workers:
            warm_up(WORKER_MODULES)
        pool = WorkerPool(
            self.spec, num_envs, episodes, self._factory(), num_workers=num_workers, worker_timeout=worker_timeout
        )
        pool.replays_exactly = mode == "train" and self._replays_exactly
        return pool

    def render_episode(self, task: int, variation: int, act: Callable[[np.ndarray], np.ndarray]) -> RenderedEpisode:
        from envs.gymnasium_suite.render import render_episode

        return render_episode(self._factory(), self.spec.tasks[task], variation, act)

    @cached_property
    def _replays_exactly(self) -> bool:
        if self.config.exact_resume != "auto":
            return self.config.exact_resume == "always"
        return all(repeats_exactly(recipe) for recipe in self.recipes)

    def _factory(self) -> GymnasiumFactory:
        space = self.spec.observation_space
        return GymnasiumFactory(
            recipes=self.recipes,
            interfaces=self.interfaces,
            modules=(*self.config.import_, *(wrapper.partition(":")[0] for wrapper in self.config.wrappers)),
            observation_shape=space.shape,
            observation_dtype=str(space.dtype),
            target_returns=None if self._reports_success else tuple(task.target_return for task in self.spec.tasks),
        )


def _arguments(config: GymnasiumSuite.Config, tasks: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Arguments of `gymnasium.make` by task: those of all tasks, and over them its own. Raises BadInput."""
    own = {task: config.env_kwargs[task] for task in tasks if task in config.env_kwargs}
    for task, arguments in own.items():
        if not isinstance(arguments, dict):
            raise BadInput(f"suite.env_kwargs: {task} is a task, so its value must be a mapping, not {arguments!r}")
    common = {name: value for name, value in config.env_kwargs.items() if name not in own}
    for name in common:
        if not name.isidentifier():
            raise BadInput(f"suite.env_kwargs: {name!r} is neither an argument's name nor a task{nearest(name, tasks)}")
    if config.max_episode_steps is not None:
        common = {"max_episode_steps": config.max_episode_steps, **common}
    return {task: {**common, **own.get(task, {})} for task in tasks}


def _by_task(config: GymnasiumSuite.Config, setting: str, tasks: Iterable[str]) -> dict[str, float]:
    """A setting that names tasks. Raises BadInput for one that the suite does not have."""
    values: dict[str, float] = getattr(config, setting)
    known = list(tasks)
    for task in values:
        if task not in known:
            raise BadInput(f"suite.{setting}: the suite has no task {task!r}{nearest(task, known)}; it has {known}")
    return values


def _references(config: GymnasiumSuite.Config, tasks: Iterable[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Random and human returns by task: of every task, or of none. Raises BadInput."""
    known = list(tasks)
    random, human = (_by_task(config, setting, known) for setting in ("random_returns", "human_returns"))
    for task in known if random or human else ():
        for setting, values in ("random_returns", random), ("human_returns", human):
            if task not in values:
                raise BadInput(
                    f"suite.{setting}: task {task!r} is missing; human-normalized scores need the random and the human "
                    "return of every task"
                )
        if random[task] == human[task]:
            raise BadInput(f"suite.human_returns: that of {task!r} must not be its random return, {random[task]:g}")
    return random, human


def _refuse_no_target(targets: Mapping[str, float | None]) -> None:
    """Raises BadInput for a task without a target where only target returns make a success."""
    for task, target in targets.items():
        if target is None:
            raise BadInput(
                f"suite.score: no episode of task {task!r} can be a success: it has no target return, and not every "
                f"environment reports successes; add --suite.target-returns {task} RETURN"
            )


def _time_limit(task: str, look: Look) -> int:
    if look.max_episode_steps is None:
        raise BadInput(
            f"task {task!r} is registered without a time limit; add --suite.max-episode-steps N, in env steps"
        )
    return look.max_episode_steps


def _observation_space(suite: str, looks: Mapping[str, Look]) -> gym.spaces.Box:
    """The largest of the vectors, or the one shape of the images. Raises BadInput."""
    sizes, shapes = {}, {}
    for task, look in looks.items():
        observation = look.interface.observation
        if isinstance(observation, VectorObservation):
            sizes[task] = observation.size
        elif isinstance(observation, ImageObservation):
            shapes[task] = observation.shape
    if sizes and shapes:
        raise BadInput(
            f"suite {suite!r}: task {next(iter(shapes))!r} has pixels and task {next(iter(sizes))!r} has numbers; "
            "one suite has one kind of observation"
        )
    if len(set(shapes.values())) > 1:
        (first, shape), *others = shapes.items()
        other, other_shape = next((task, own) for task, own in others if own != shape)
        raise BadInput(
            f"suite {suite!r}: task {first!r} has images {shape} and task {other!r} {other_shape}; a wrapper would "
            "help, such as gymnasium.wrappers.ResizeObservation: --suite.wrappers MODULE:FUNCTION"
        )
    if shapes:
        return gym.spaces.Box(0, 255, next(iter(shapes.values())), np.uint8)
    return gym.spaces.Box(-np.inf, np.inf, (max(sizes.values()),), np.float32)


def _actions(suite: str, looks: Mapping[str, Look]) -> tuple[gym.spaces.Discrete | gym.spaces.Box, np.ndarray | None]:
    """The largest of the action spaces, and the mask (M, A) of discrete ones. Raises BadInput."""
    discrete, boxes = {}, {}
    for task, look in looks.items():
        action = look.interface.action
        if isinstance(action, DiscreteAction):
            discrete[task] = action.size
        elif isinstance(action, BoxAction):
            boxes[task] = action.size
    if discrete and boxes:
        raise BadInput(
            f"suite {suite!r}: task {next(iter(discrete))!r} has discrete actions and task {next(iter(boxes))!r} "
            "continuous ones; one suite has one kind of action"
        )
    if boxes:
        return gym.spaces.Box(-1, 1, (max(boxes.values()),), np.float32), None
    sizes = np.array(list(discrete.values()))
    return gym.spaces.Discrete(int(sizes.max())), np.arange(sizes.max()) < sizes[:, None]


_SIMULATORS = {".mujoco": "mujoco", "gymnasium_robotics": "mujoco", "shimmy": "dm-control"}
"""Distributions that results depend on too, by a part of the name of the environment's module."""


def _versions(modules: Iterable[str]) -> dict[str, str]:
    """Versions of Gymnasium and of the distributions that the environments' modules belong to, by name."""
    names = {"gymnasium": None}
    for module in modules:
        top = module.partition(".")[0].replace("_", "-")
        names |= dict.fromkeys([top, *(own for part, own in _SIMULATORS.items() if part in module)])
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # a module of the user's
            versions[name] = importlib.metadata.version(name)
    return versions
