"""The contract of an agent finds what it is meant to find. Each class below breaks it in one way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.sac import SAC
from mtrl.agent import Agent, Components
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.errors import BadInput, Diverged
from mtrl.per_task import means_per_task
from mtrl.testing import check_agent
from mtrl.types import ActionStep, Batch, Metrics, TaskWeights

CONFIG = SAC.Config(batch_size=6, learning_starts=12)


class ContinuousOnly(SAC):
    """Keeps the contract: it says what it cannot play."""

    def __init__(self, components: Components, config: SAC.Config):
        if isinstance(components.spec.action_space, gym.spaces.Discrete):
            raise BadInput("continuous actions only")
        super().__init__(components, config)


def test_an_agent_may_refuse_an_action_space() -> None:
    check_agent(ContinuousOnly, CONFIG)


class ManyNumbersPerTask(SAC):
    """Keeps the contract: two numbers per task, and tasks without samples in most batches."""

    def learn(self, batch: Batch) -> Metrics:
        columns = {"pair": batch.reward.unsqueeze(1).expand(-1, 2)}
        return super().learn(batch) | means_per_task(columns, batch.task_ids, self.num_tasks)


def test_metrics_may_have_several_numbers_per_task_and_nan_where_a_task_has_no_samples() -> None:
    check_agent(ManyNumbersPerTask, SAC.Config(batch_size=2, learning_starts=12))


class RefusesAll(SAC):
    def __init__(self, components: Components, config: SAC.Config):
        raise BadInput("not today")


class MutableConfig(SAC):
    @dataclass
    class Config:
        batch_size: int = 4


class CountsActions(SAC):
    acted = 0

    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        self.acted += 1
        return super().act(observation, task_ids, explore)


class ExploresAlways(SAC):
    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        return super().act(observation, task_ids, True)


class DrawsGlobally(SAC):
    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        np.random.random()
        return super().act(observation, task_ids, explore)


class DoubleActions(SAC):
    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        return ActionStep(super().act(observation, task_ids, explore).action.astype(np.float64))


class BeyondTheBox(SAC):
    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        return ActionStep(3 * super().act(observation, task_ids, explore).action)


class IgnoresTheMask(SAC):
    def __init__(self, components: Components, config: SAC.Config):
        spec = components.spec
        if not isinstance(spec.action_space, gym.spaces.Discrete):
            raise BadInput("discrete actions only")
        super().__init__(components, config)

    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        return ActionStep(np.full(len(task_ids), 3))


class OneActionForAll(SAC):
    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        return ActionStep(super().act(observation, task_ids, explore).action[:1])


class UndeclaredExtras(SAC):
    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        action_step = super().act(observation, task_ids, explore)
        return replace(action_step, extras={"value": np.zeros(len(task_ids), np.float32)})


class NeverLearns(SAC):
    def update(self, buffer: RolloutBuffer, task_weights: TaskWeights) -> Metrics:
        return {}


class DropsLossWeights(SAC):
    def update(self, buffer: RolloutBuffer, task_weights: TaskWeights) -> Metrics:
        return super().update(buffer, task_weights._replace(loss_weights=np.ones(self.num_tasks)))


class ForgetsACounter(SAC):
    updates = 0

    def learn(self, batch: Batch) -> Metrics:
        self.updates += 1
        return super().learn(batch)


class ForgetsItsTemperatureMoments(SAC):
    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state | {"alpha_optimizer": {}})


class KeepsAPickle(SAC):
    def state(self) -> dict[str, Any]:
        return super().state() | {"config": self.config}


class MetricsWithGraph(SAC):
    def learn(self, batch: Batch) -> Metrics:
        return super().learn(batch) | {"alpha": self.temperatures.log_alpha.exp()}


class MetricsOfSamples(SAC):
    def learn(self, batch: Batch) -> Metrics:
        return super().learn(batch) | {"reward": batch.reward}


class InfiniteMetrics(SAC):
    def learn(self, batch: Batch) -> Metrics:
        return super().learn(batch) | {"reward": torch.tensor([0.0, torch.inf, 0.0])}


class UnknownMetrics(SAC):
    def learn(self, batch: Batch) -> Metrics:
        return super().learn(batch) | {"reward": torch.full((self.num_tasks,), torch.nan)}


class MetricsAsNumbers(SAC):
    def learn(self, batch: Batch) -> Metrics:
        return super().learn(batch) | {"reward": batch.reward.mean().item()}  # type: ignore[dict-item]


class SwallowsNaN(SAC):
    def learn(self, batch: Batch) -> Metrics:
        return super().learn(replace(batch, reward=batch.reward.nan_to_num()))


class NoticesTooLate(SAC):
    def learn(self, batch: Batch) -> Metrics:
        metrics = super().learn(replace(batch, reward=batch.reward.nan_to_num()))
        if not torch.isfinite(batch.reward).all():
            raise Diverged("reward is not finite")
        return metrics


class SamplesByItself(SAC):
    def sample(self, observation: np.ndarray, task_ids: np.ndarray, generator: torch.Generator) -> np.ndarray:
        return super().sample(observation, task_ids, self.explore_stream)


class NoGroups(SAC):
    def groups(self) -> dict[str, Any]:
        return {}


FAULTS: list[tuple[type[Agent], str]] = [
    (RefusesAll, r"refuses every kind of action space: \['not today', 'not today'\]"),
    (MutableConfig, "Config is not frozen"),
    (CountsActions, "act with explore=False changes the agent: acted"),
    (ExploresAlways, "act with explore=False changes the agent: .*(explore_stream|env_steps)"),
    (DrawsGlobally, "uses the global generator of numpy.random"),
    (DoubleActions, "gives float64 actions, not (float32|int64)"),
    (BeyondTheBox, "gives actions beyond"),
    (IgnoresTheMask, "gives action 3, illegal in task 1"),
    (OneActionForAll, r"gives actions of shape \(1, 2\), not \(3, 2\)"),
    (UndeclaredExtras, "gives extras of .*value"),
    (NeverLearns, "update gave no metrics"),
    (DropsLossWeights, "takes no notice of the loss weights"),
    (ForgetsACounter, r"state\(\) and load_state\(\) lose updates"),
    (ForgetsItsTemperatureMoments, r"state\(\) and load_state\(\) lose temperatures\.optimizer"),
    (KeepsAPickle, "its state cannot be saved: state at '/agent/config' is a Config"),
    (MetricsWithGraph, "metric 'alpha' is not detached"),
    (MetricsOfSamples, r"metric 'reward' of shape \(6,\)"),
    (InfiniteMetrics, "metric 'reward' is not finite"),
    (UnknownMetrics, "metric 'reward' is not finite"),
    (MetricsAsNumbers, "metric 'reward' that is a float"),
    (SwallowsNaN, "does not raise Diverged"),
    (NoticesTooLate, "it raises Diverged after it changed"),
    (SamplesByItself, "sample draws from something else than the generator given"),
    (NoGroups, r"groups\(\) is empty"),
]


@pytest.mark.parametrize(("cls", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_agent_is_told_what_is_wrong(cls: type[Agent], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtrl.testing.agent.MAX_VECTOR_STEPS", 200)
    with pytest.raises(AssertionError, match=message) as caught:
        check_agent(cls, cls.Config() if cls is MutableConfig else CONFIG)
    assert cls.__qualname__ in str(caught.value)
