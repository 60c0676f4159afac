"""A faulty environment is reported in one line, with task, slot and cause."""

from __future__ import annotations

import re

import numpy as np
import pytest
from toy_environments import register_toy

from envs.gymnasium_suite.suite import GymnasiumSuite
from mtrl.env.episodes import RandomEpisodes
from mtrl.errors import Diverged, WorkerFailure
from mtrl.registry import trust_module


def play(
    name: str, *, num_workers: int = 0, config: GymnasiumSuite.Config | None = None, timeout: float = 30.0
) -> None:
    suite = GymnasiumSuite(name, config or GymnasiumSuite.Config(), 1)
    envs = suite.make_envs(
        2, RandomEpisodes(suite.spec, 2, 1), mode="train", num_workers=num_workers, worker_timeout=timeout
    )
    with envs:
        envs.reset()
        for _ in range(4):
            envs.step(np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", r"raised LookupError: the drawer is stuck"),
        ("shape", r"returned an observation of shape \(7,\), expected \(3,\)"),
        ("reward", r"returned None as the reward of step, expected a number"),
        ("few", r"raised ValueError: not enough values to unpack"),
    ],
)
def test_a_fault_names_task_slot_class_and_line(fault: str, message: str) -> None:
    faulty = register_toy(fault=fault)
    with pytest.raises(WorkerFailure) as failed:
        play(f"gym:ToyTwo-v0,{faulty}")
    line = str(failed.value).partition("\n")[0]
    assert f"at task {faulty} in slot 1: Toy (" in line
    assert "toy_environments.py:" in line
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("wrappers", "message"),
    [
        (("jammed",), "Jammed (%) raised LookupError: the wrapper is stuck"),
        (("half", "jammed", "half"), "Jammed (%) raised LookupError: the wrapper is stuck"),
        (("spoilt",), "spoilt (%) raised StopIteration"),
    ],
)
def test_a_wrapper_that_raises_is_named_itself(wrappers: tuple[str, ...], message: str) -> None:
    trust_module("toy_environments")
    config = GymnasiumSuite.Config(wrappers=tuple(f"toy_environments:{own}" for own in wrappers))
    with pytest.raises(WorkerFailure) as failed:
        play("gym:CartPole-v1", config=config)
    line = re.sub(r"\(/[^()]*toy_environments\.py:[0-9]+\)", "(%)", str(failed.value).partition("\n")[0])
    assert line.endswith(f"at task CartPole-v1 in slot 0: {message}"), line


@pytest.mark.parametrize("fault", ["raises", "few", "reward"])
def test_an_environment_is_to_blame_in_its_wrappers(fault: str) -> None:
    trust_module("toy_environments")
    config = GymnasiumSuite.Config(wrappers=("gymnasium.wrappers:RecordEpisodeStatistics", "toy_environments:half"))
    trust_module("gymnasium.wrappers")
    with pytest.raises(WorkerFailure, match=r"in slot 0: Toy \(.*toy_environments\.py:"):
        play(f"gym:{register_toy(fault=fault)}", config=config)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("not a number", "observation is not finite: task {task}, slot 1, variation [0-9]+, step 3 of its episode"),
        ("endless reward", "reward is not finite: task {task}, slot 1, variation [0-9]+, step 3 of its episode"),
    ],
)
def test_a_value_that_is_not_finite_names_task_slot_and_step(fault: str, message: str) -> None:
    faulty = register_toy(fault=fault)
    with pytest.raises(Diverged, match=message.format(task=faulty)):
        play(f"gym:ToyTwo-v0,{faulty}")


def test_a_worker_names_the_faulty_environment_too() -> None:
    trust_module("toy_environments")
    config = GymnasiumSuite.Config(import_=("toy_environments",))
    with pytest.raises(WorkerFailure, match=r"at task ToyFaulty-v0 in slot 1: Toy \(.*raised LookupError: the drawer"):
        play("gym:ToyTwo-v0,ToyFaulty-v0", num_workers=2, config=config)


def test_a_worker_that_does_not_know_an_environment_asks_for_the_module() -> None:
    with pytest.raises(WorkerFailure, match=r"'ToyTwo-v0' is not registered.*--suite\.import MODULE"):
        play("gym:ToyTwo-v0", num_workers=1)
