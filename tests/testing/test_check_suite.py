"""The contract of a suite finds what it is meant to find. Each suite below breaks it in one way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest

from envs.point_mass import PointMass
from mtrl.env.episodes import EpisodeSource
from mtrl.env.suite import Suite
from mtrl.env.vector_env import MultiTaskVectorEnv, RawStep
from mtrl.errors import BadInput
from mtrl.testing import check_suite
from mtrl.testing.counting_suite import CountingEnvs, CountingSuite
from mtrl.types import FinishedEpisode, State, SuiteSpec


@pytest.mark.parametrize("name", CountingSuite.suite_names)
@pytest.mark.parametrize("num_tasks", [1, 3])
@pytest.mark.parametrize("num_variations", [1, 16, None])
def test_the_counting_suite_passes(name: str, num_tasks: int, num_variations: int | None) -> None:
    check_suite(CountingSuite, name, CountingSuite.Config(num_tasks=num_tasks, num_variations=num_variations))


@pytest.mark.parametrize("name", PointMass.suite_names)
def test_every_point_mass_passes(name: str) -> None:
    check_suite(PointMass, name)


class Broken(CountingSuite):
    """A counting suite of other environments, or of another description."""

    suite_names: ClassVar[Mapping[str, str]] = {"counting": "broken"}
    envs_type: type[CountingEnvs] = CountingEnvs
    replaced: Mapping[str, Any] = {}

    def __init__(self, name: str, config: Any, seed: int):
        super().__init__(name, config, seed)
        self.spec = dataclasses.replace(self.spec, **self.replaced)

    def make_envs(self, num_envs: int, episodes: EpisodeSource, **rest: Any) -> MultiTaskVectorEnv:
        return self.envs_type(self, num_envs, episodes)


class ForgetsTheEnd(CountingEnvs):
    """Gives the next episode's observation as the final one."""

    def _recv(self) -> RawStep:
        raw = super()._recv()
        return raw._replace(final_observation=raw.observation)


class ReturnsTheOldObservation(CountingEnvs):
    """Resets in the next step instead of the same one."""

    def _recv(self) -> RawStep:
        raw = super()._recv()
        return raw._replace(observation=raw.final_observation)


class Endless(CountingEnvs):
    """Goes on where an episode is over."""

    def _recv(self) -> RawStep:
        raw = super()._recv()
        return raw._replace(truncated=raw.truncated & False, terminated=raw.terminated & False)


class WrongDtype(CountingEnvs):
    def _recv(self) -> RawStep:
        raw = super()._recv()
        return raw._replace(reward=raw.reward.astype(np.float64))


class WrongFirstObservation(CountingEnvs):
    def _start(self, tasks: np.ndarray, variations: np.ndarray) -> np.ndarray:
        return super()._start(tasks, variations).astype(np.float64)


class Remembers(CountingEnvs):
    """An episode's observations depend on how many came before it."""

    offset = np.zeros(0)
    resets = 0

    def _restart(self, which: np.ndarray, tasks: np.ndarray, variations: np.ndarray) -> None:
        super()._restart(which, tasks, variations)
        self.offset = np.resize(self.offset, self.num_envs)
        self.offset[which] = self.new_offset()

    def new_offset(self) -> float:
        self.resets += 1
        return self.resets

    def _observe(self) -> np.ndarray:
        observation = super()._observe()
        observation[:, 4] += self.offset
        return observation


class DrawsFromTheOperatingSystem(Remembers):
    """An episode's observations depend on chance."""

    def new_offset(self) -> float:
        return np.random.Generator(np.random.PCG64()).random()


class DrawsGlobally(CountingEnvs):
    def _start(self, tasks: np.ndarray, variations: np.ndarray) -> np.ndarray:
        np.random.random()
        return super()._start(tasks, variations)


class ForgetsActions(CountingEnvs):
    def _replay(self, tasks: np.ndarray, variations: np.ndarray, actions: list[np.ndarray]) -> np.ndarray:
        return super()._replay(tasks, variations, [played[:1] for played in actions])


class LosesTheSum(CountingEnvs):
    """Restores the observation, but not what the next steps depend on."""

    def _replay(self, tasks: np.ndarray, variations: np.ndarray, actions: list[np.ndarray]) -> np.ndarray:
        observation = super()._replay(tasks, variations, actions)
        self._sum[:] = 0
        return observation


class ChangesTasksAnyTime(CountingEnvs):
    def recv(self) -> Any:
        step = super().recv()
        self.task_ids[0] = (self.task_ids[0] + 1) % 3
        return step


class MiscountsLengths(CountingEnvs):
    def recv(self) -> Any:
        step = super().recv()
        return dataclasses.replace(
            step, episodes=tuple(episode._replace(length=episode.length + 1) for episode in step.episodes)
        )


class NeverRests(CountingEnvs):
    def recv(self) -> Any:
        step = super().recv()
        if (self.task_ids < 0).any() and not step.episodes:
            ghost = FinishedEpisode(slot=1, task=0, variation=0, return_=0.0, length=1, success=False)
            return dataclasses.replace(step, episodes=(*step.episodes, ghost))
        return step


class PlaysAnotherVariation(CountingEnvs):
    def recv(self) -> Any:
        step = super().recv()
        return dataclasses.replace(step, episodes=tuple(episode._replace(variation=3) for episode in step.episodes))


ENVIRONMENTS: list[tuple[type[CountingEnvs], str]] = [
    (ForgetsTheEnd, "final_observation|gives other observations"),
    (ReturnsTheOldObservation, "gives other observations"),
    (Endless, "an episode did not end: task count-0, slot 0, variation .*, after 7 steps"),
    (WrongDtype, "returned reward .* float64"),
    (WrongFirstObservation, "WrongFirstObservation .* returned observation"),
    (Remembers, "must depend on .task, variation, actions. alone"),
    (DrawsFromTheOperatingSystem, "played twice with one seed"),
    (DrawsGlobally, "uses the global generator of numpy.random"),
    (ForgetsActions, "load_state does not lead to the observations that were saved"),
    (LosesTheSum, "after load_state the next steps differ"),
    (ChangesTasksAnyTime, "changed its task without an episode's end|are not those that were playing"),
    (MiscountsLengths, "reports FinishedEpisode"),
    (NeverRests, "a resting slot reports the end|were to play"),
    (PlaysAnotherVariation, "in mode 'evaluate' the slots were to play"),
]


@pytest.mark.parametrize(("envs_type", "message"), ENVIRONMENTS, ids=lambda value: getattr(value, "__name__", ""))
def test_broken_environments_are_told_what_is_wrong(
    envs_type: type[CountingEnvs], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "envs_type", envs_type)
    with pytest.raises(AssertionError, match=message):
        check_suite(Broken, "counting")


TASKS = CountingSuite("counting", CountingSuite.Config(), 1).spec.tasks
DESCRIPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"tasks": ()}, "it has no task"),
    ({"tasks": tuple(dataclasses.replace(task, name="same") for task in TASKS)}, "two tasks share a name"),
    ({"tasks": tuple(dataclasses.replace(task, num_variations=0) for task in TASKS)}, "unlimited ones are None"),
    ({"tasks": tuple(dataclasses.replace(task, max_episode_steps=0) for task in TASKS)}, "has episodes of 0 steps"),
    ({"observation_space": gym.spaces.Box(-1, 1, (5,), np.float64)}, "observations are float64"),
    ({"action_space": gym.spaces.Box(-2, 1, (2,), np.float32)}, "rescale them"),
    ({"action_space": gym.spaces.Box(-1, 1, (2, 2), np.float32)}, "a vector is needed"),
    ({"action_space": gym.spaces.Discrete(4, start=1)}, "actions begin at 1"),
    ({"protocol": ""}, "`protocol` is empty"),
    ({"settings": {"goals": np.zeros(3)}}, "`settings` are not JSON"),
]


@pytest.mark.parametrize(("replaced", "message"), DESCRIPTIONS, ids=[message for _, message in DESCRIPTIONS])
def test_a_broken_description_is_told_what_is_wrong(
    replaced: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "replaced", replaced)
    with pytest.raises(AssertionError, match=message):
        check_suite(Broken, "counting")


class Unfindable(CountingSuite):
    @classmethod
    def accepts(cls, name: str) -> bool:
        return False


class Moody(CountingSuite):
    """Another description every time."""

    made = 0

    def __init__(self, name: str, config: Any, seed: int):
        super().__init__(name, config, seed)
        Moody.made += 1
        self.spec = dataclasses.replace(self.spec, settings={"made": Moody.made})


@pytest.mark.parametrize(
    ("family", "message"), [(Unfindable, "would not find it"), (Moody, "made twice with one seed it differs")]
)
def test_a_broken_family_is_told_what_is_wrong(family: type[Suite], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_suite(family, "counting")


class CannotReplay(CountingEnvs):
    """Starts new episodes, and says so."""

    replays_exactly = False

    def load_state(self, state: State) -> np.ndarray:
        raise NotImplementedError


def test_environments_that_say_they_cannot_replay_are_not_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broken, "envs_type", CannotReplay)
    check_suite(Broken, "counting")


def test_a_task_suite_refuses_what_does_not_fit_together() -> None:
    spec = CountingSuite("counting-discrete", CountingSuite.Config(), 1).spec
    assert isinstance(spec, SuiteSpec)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"tasks": spec.tasks[::-1]}, "has index 2 at position 0"),
        ({"action_mask": np.ones((2, 4), bool)}, r"action mask \(2, 4\) does not fit 3 tasks with 4 actions"),
        ({"action_mask": np.zeros((3, 4), bool)}, "a task has no legal action"),
        ({"action_space": gym.spaces.Box(-1, 1, (4,), np.float32)}, "an action mask needs a discrete action space"),
    ]
    for replaced, message in wrong:
        with pytest.raises((ValueError, BadInput), match=message):
            dataclasses.replace(spec, **replaced)
