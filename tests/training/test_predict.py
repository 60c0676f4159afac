"""What `TrainedAgent.predict` accepts, and how it acts."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.sac import SAC
from mtrl.agent import Agent
from mtrl.errors import BadInput
from mtrl.seeding import torch_stream
from mtrl.testing.small_runs import make_agent
from mtrl.training.load import TaskNames, TrainedAgent
from mtrl.types import ActionStep, SuiteSpec, TaskSpec
from tests.training.tiny_runs import tiny_config

TASKS = tuple(TaskSpec(name=name, index=index, max_episode_steps=10) for index, name in enumerate("abc"))
VECTOR = SuiteSpec(
    name="vector",
    tasks=TASKS,
    observation_space=gym.spaces.Box(-1, 1, (5,), np.float32),
    action_space=gym.spaces.Box(-1, 1, (2,), np.float32),
    protocol="none",
)
PIXELS = dataclasses.replace(VECTOR, name="pixels", observation_space=gym.spaces.Box(0, 255, (4, 6, 6), np.uint8))


class Repeating(Agent):
    """Returns the first number of each observation and its task."""

    def __init__(self, spec: SuiteSpec):
        torch.nn.Module.__init__(self)
        self.spec, self.num_tasks, self.device = spec, spec.num_tasks, torch.device("cpu")

    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        assert (observation.dtype, explore) == (self.spec.observation_space.dtype, False)
        first = observation.reshape(len(observation), -1)[:, 0]
        return ActionStep(np.stack([first, task_ids], axis=1).astype(np.float32))

    def sample(self, observation: np.ndarray, task_ids: np.ndarray, generator: torch.Generator) -> np.ndarray:
        return torch.rand((len(observation), 2), generator=generator).numpy()

    def update(self, *arguments: Any) -> Any:
        raise NotImplementedError

    def groups(self) -> Any:
        return {}

    def streams(self) -> Any:
        return {}


def trained(spec: SuiteSpec, agent: Agent | None = None) -> TrainedAgent:
    return TrainedAgent(agent or Repeating(spec), spec, tiny_config(), "step 1", 1, torch_stream(1, "predict"))


ROWS = np.arange(15, dtype=np.float32).reshape(3, 5)


def test_one_observation_gives_one_action_and_several_give_as_many() -> None:
    agent = trained(VECTOR)
    assert agent.predict(ROWS[2], "b").tolist() == [10, 1]
    assert agent.predict(ROWS, "b").tolist() == [[0, 1], [5, 1], [10, 1]]
    assert agent.predict(ROWS[:1], "b").shape == (1, 2)
    assert agent.predict(ROWS.astype(np.float64)[::-1].tolist(), 2).tolist() == [[10, 2], [5, 2], [0, 2]]
    assert agent.predict(torch.from_numpy(ROWS), np.int64(0)).shape == (3, 2)


@pytest.mark.parametrize(
    "tasks", [["c", "a", "b"], [2, 0, 1], ("c", 0, "b"), np.array([2, 0, 1]), torch.tensor([2, 0, 1])]
)
def test_every_row_may_have_a_task_of_its_own(tasks: Any) -> None:
    assert trained(VECTOR).predict(ROWS, tasks)[:, 1].tolist() == [2, 0, 1]


@pytest.mark.parametrize("shape", [(5, 3), (15,), (1,), (3, 1, 5), (5, 1), (0, 5), ()])
def test_observations_of_another_shape_are_refused_with_both_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput) as refused:
        trained(VECTOR).predict(np.zeros(shape, np.float32), 0)
    assert str(refused.value) == f"an observation of shape {shape}, float32; expected (5,) or (N, 5), float32"


def test_pixels_in_another_order_or_scaled_are_refused() -> None:
    agent = trained(PIXELS)
    assert agent.predict(np.full((2, 4, 6, 6), 7), 1).tolist() == [[7, 1], [7, 1]]  # int64 that fits
    with pytest.raises(BadInput, match=r"shape \(6, 6, 4\), uint8; expected \(4, 6, 6\) or \(N, 4, 6, 6\), uint8"):
        agent.predict(np.zeros((6, 6, 4), np.uint8), 0)
    with pytest.raises(BadInput, match=r"shape \(4, 6, 6\), float32; expected \(4, 6, 6\) .*, uint8"):
        agent.predict(np.ones((4, 6, 6), np.float32), 0)
    for value in (-1, 256):
        with pytest.raises(BadInput, match=f"with values {value} to {value}; they do not fit"):
            agent.predict(np.full((4, 6, 6), value), 0)


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        ([[1, 2], [3]], "no array"),
        (["a"] * 5, "shape"),
        (None, "shape"),
        (np.full(5, np.nan, np.float32), "not finite"),
        (np.full(5, 1e300), "not finite"),
    ],
)
def test_what_is_no_observation_is_refused(observation: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        trained(VECTOR).predict(observation, 0)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (["a", "b"], "2 tasks for 3 observations"),
        (["a", "b", "x"], "unknown task 'x'"),
        ("abc", "unknown task 'abc'"),
        (3, "outside 0 to 2"),
        (-1, "outside 0 to 2"),
        (1.0, "must be a name or an index"),
        (None, "must be a name or an index"),
        (True, "task True"),
        ([[0], [1], [2]], "must be a name or an index"),
        ({}, "0 tasks for 3 observations"),
    ],
)
def test_what_is_no_task_is_refused(task: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        trained(VECTOR).predict(ROWS, task)


def test_the_protocol_decides_whether_actions_are_drawn_unless_the_caller_does() -> None:
    drawn = dataclasses.replace(VECTOR, samples_policy=True)
    mode = trained(VECTOR).predict(ROWS, 0)
    assert trained(drawn).predict(ROWS, 0, deterministic=True).tolist() == mode.tolist()
    samples = [trained(drawn).predict(ROWS, 0), trained(VECTOR).predict(ROWS, 0, deterministic=False)]
    assert samples[0].tolist() == samples[1].tolist() != mode.tolist()
    agent = trained(drawn)
    first, second = agent.predict(ROWS, 0), agent.predict(ROWS, 0)
    assert first.tolist() == samples[0].tolist() != second.tolist()  # the same after every load, and other ones next


def test_samples_are_drawn_from_the_policy() -> None:
    network = make_agent(SAC, SAC.Config(), VECTOR)
    before = network.explore_stream.get_state().tolist()
    agent = trained(VECTOR, network)
    samples = np.stack([agent.predict(ROWS, 0, deterministic=False) for _ in range(200)])
    assert samples.std(0).min() > 0.1
    assert network.explore_stream.get_state().tolist() == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"observation_space": gym.spaces.Box(-1, 1, (7,), np.float32)},
            r"observations \(7,\) float32, the agent was trained with \(5,\) float32",
        ),
        (
            {"action_space": gym.spaces.Discrete(4)},
            r"actions 0 to 3, the agent was trained with \(2,\) float32",
        ),
    ],
)
def test_a_suite_with_other_spaces_is_refused_with_both(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=f"suite 'vector' has {said}"):
        TaskNames(Repeating(VECTOR), dataclasses.replace(VECTOR, **changed))
