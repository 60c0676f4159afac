"""A family of task suites: what a suite registers.

The class is cheap to import: its simulator is imported inside `make_envs`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import gymnasium as gym
import numpy as np

from mtrl.env.episodes import EpisodeSource
from mtrl.env.vector_env import MultiTaskVectorEnv
from mtrl.errors import BadInput
from mtrl.registry import Registry, listed, nearest
from mtrl.types import SuiteSpec

Mode = Literal["train", "evaluate"]


class SuiteOutline(NamedTuple):
    """Tasks and spaces of a suite."""

    task_names: tuple[str, ...]
    observation_space: gym.spaces.Box
    action_space: gym.spaces.Box | gym.spaces.Discrete


class RenderedEpisode(NamedTuple):
    """An episode in pictures."""

    frames: list[np.ndarray]  # (height, width, 3) uint8 each
    return_: float  # undiscounted sum of raw rewards
    success: bool


class Suite(ABC):
    """One suite of a family, built from its name: `find_suite("mt10")("mt10", config, seed)`."""

    packages: tuple[str, ...] = ()
    """Distribution names of the packages that results depend on; their versions are recorded.

    Of the class: those of every suite of the family. A suite may set more on itself.
    """
    suite_names: ClassVar[Mapping[str, str]] = {}
    """Names to list, each with a one-line description; a pattern such as `mt1-TASK` may stand among them."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Settings of the family."""

    spec: SuiteSpec
    """The tasks; set by the constructor, which raises BadInput for a name it cannot make."""

    @abstractmethod
    def __init__(self, name: str, config: Any, seed: int): ...

    @classmethod
    def accepts(cls, name: str) -> bool:
        """Whether `name` belongs to this family."""
        return name in cls.suite_names

    @classmethod
    def suggestion(cls, name: str) -> str | None:
        """The name in this family of what another library, or another spelling, calls `name`; None if there is none."""
        return name.lower() if name.lower() in cls.suite_names else None

    @classmethod
    def outline(cls, name: str) -> SuiteOutline:
        """What `mtrl list suites` shows of one of `suite_names`, at default settings. Raises BadInput for a pattern.

        To be overridden where the constructor takes long.
        """
        spec = cls(name, cls.Config(), 1).spec
        return SuiteOutline(spec.task_names, spec.observation_space, spec.action_space)

    @classmethod
    def presets(cls, name: str, agent: str) -> Mapping[str, Mapping[str, Any]]:
        """Named settings of a suite for an agent, each as the nested mapping a YAML file would hold.

        The first is used unless `preset` chooses another.
        """
        return {}

    @classmethod  # noqa: B027 - most suites have nothing to start
    def warm_up(cls) -> None:
        """Starts what takes long to start (a server of worker processes), and returns at once.

        The command line calls it before it imports torch, so that the two run side by side.
        """

    @classmethod
    def diagnose(cls) -> Iterable[tuple[str, str]]:
        """Lines of (what, found) for `mtrl doctor`."""
        return ()

    @abstractmethod
    def make_envs(
        self, num_envs: int, episodes: EpisodeSource, *, mode: Mode, num_workers: int, worker_timeout: float
    ) -> MultiTaskVectorEnv:
        """`num_envs` slots over `num_workers` processes (0: in this process).

        In mode "evaluate" the protocol's own episode end holds (at the first success, say). `worker_timeout`
        is in seconds.
        """

    def render_episode(self, task: int, variation: int, act: Callable[[np.ndarray], np.ndarray]) -> RenderedEpisode:
        """One evaluation episode of a task, played by `act` (observation to action, both of one environment).

        Raises BadInput where it cannot be rendered.
        """
        raise BadInput(f"suite {self.spec.name!r} has no pictures")


suites: Registry[Suite] = Registry("suite", Suite)


def find_suite(name: str) -> type[Suite]:
    """The family that makes the suite `name`. Raises BadInput with the known names."""
    families = suites.classes()
    for family in families:
        if family.accepts(name):
            return family
    module_name, colon, class_name = name.partition(":")
    if colon and class_name.isidentifier() and all(part.isidentifier() for part in module_name.split(".")):
        return suites.get(name)
    known = [known for family in families for known in family.suite_names]
    meant = [own for family in families if (own := family.suggestion(name)) is not None]
    hint = f" (did you mean {meant[0]!r}?)" if meant else nearest(name, known)
    raise BadInput(f"unknown suite {name!r}{hint}; {listed(known, 'mtrl list suites')}")
