"""What is around the recordings of a GPU, which there is none of here: a stand-in runs the function again instead."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.ppo import PPO
from agents.sac import SAC
from mtrl.optim import cuda_graphs
from mtrl.agent import Agent
from mtrl.aggregation.pcgrad import PCGrad
from mtrl.optim.cuda_graphs import MAX_RECORDINGS, WARM_UP_CALLS, Replayed
from mtrl.errors import BadInput
from mtrl.normalization.popart import PopArt
from mtrl.testing.attributes import differences, leaves
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from mtrl.types import Metrics
from tests.agents.constants import CONTINUOUS


@dataclass(frozen=True)
class Given:
    values: Tensor
    extras: dict[str, Tensor]
    counts: tuple[int, ...] = (1,)


class Rerun:
    """In place of a recording: reads the memory that a recording reads."""

    made = 0

    def __init__(self, function: Callable[..., Metrics], inputs: list[Any], generators: Sequence[torch.Generator]):
        Rerun.made += 1
        self.function, self.inputs = function, inputs

    def replay(self, inputs: Sequence[Any]) -> Metrics:
        for memory, given in zip(self.inputs, inputs, strict=True):
            memory.take(given)
        return self.function(*(memory.own for memory in self.inputs))


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "_Recording", Rerun)
    Rerun.made = 0


def given(value: float, rows: int = 2, counts: tuple[int, ...] = (1,)) -> Given:
    return Given(torch.full((rows,), value), {"more": torch.full((rows, 1), 10 * value)}, counts)


def test_every_call_sees_its_own_inputs_and_one_form_is_recorded_once() -> None:
    replayed = Replayed(lambda one, two: {"sum": one.values + two.extras["more"][:, 0]}, [])
    for call in range(WARM_UP_CALLS + 5):
        assert replayed(given(call), given(2 * call)).pop("sum").tolist() == [21 * call, 21 * call]
        assert Rerun.made == (call >= WARM_UP_CALLS)


def test_an_input_that_is_the_same_object_is_not_copied_again() -> None:
    replayed = Replayed(lambda one: {"values": one.values.clone()}, [])
    whole = given(1.0)
    for _ in range(WARM_UP_CALLS + 1):
        replayed(whole)
    whole.values.fill_(5.0)
    assert replayed(whole)["values"].tolist() == [1, 1]
    assert replayed(given(7.0))["values"].tolist() == [7, 7]
    assert replayed(whole)["values"].tolist() == [5, 5]


@pytest.mark.parametrize("idle_calls", [3, 1000])
def test_other_numbers_of_rows_are_another_form_and_take_the_place_of_idle_ones(
    idle_calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "IDLE_CALLS", idle_calls)
    replayed = Replayed(lambda one: {"counts": torch.tensor(one.counts)}, [])
    for counts in range(MAX_RECORDINGS + 3):
        for _ in range(WARM_UP_CALLS + 2):
            assert replayed(given(0.0, counts=(counts,)))["counts"].tolist() == [counts]
        replayed(given(0.0, counts=(0,)))
    assert len(replayed._recordings) == len(replayed._inputs) == MAX_RECORDINGS
    # Where none is idle the others go unrecorded.
    assert Rerun.made == MAX_RECORDINGS + (3 if idle_calls == 3 else 0)
    made = Rerun.made
    replayed(given(0.0, counts=(0,)))  # in use all the time
    assert Rerun.made == made


def test_an_input_is_not_kept_beside_its_copy() -> None:
    replayed = Replayed(lambda one: {}, [])
    whole = given(1.0)
    for _ in range(WARM_UP_CALLS + 2):
        replayed(whole)
    gone = weakref.ref(whole)
    del whole
    assert gone() is None
    replayed(given(2.0))


def test_forms_that_never_come_back_take_no_memory() -> None:
    replayed = Replayed(lambda one: {}, [])
    for counts in range(1000):
        replayed(given(0.0, counts=(counts,)))
    assert len(replayed._calls) <= cuda_graphs._MAX_COUNTED
    assert not replayed._inputs


@pytest.mark.parametrize("agent_type", [SAC, PPO])
@pytest.mark.parametrize("slots", [3, 4])
def test_agents_learn_the_same_from_recordings(agent_type: type[Agent], slots: int) -> None:
    configs = {
        SAC: SAC.Config(batch_size=12, learning_starts=2),
        PPO: PPO.Config(rollout_steps=8, epochs=2, minibatches=3),
    }
    found = []
    for recorded in (False, True):
        agent = make_agent(agent_type, configs[agent_type], CONTINUOUS.spec, normalizer=PopArt)
        agent.cuda_graphs = recorded
        agent.load_state(agent.state())  # makes a new recording
        state = make_train_state(agent, CONTINUOUS, slots)
        for _ in training_loop(state, 24 * slots):
            pass
        found.append(leaves(dict(agent.named_parameters())))
    assert found[0] == found[1], differences(*found)
    assert Rerun.made


def test_what_takes_tasks_apart_is_refused() -> None:
    agent = make_agent(PPO, PPO.Config(), CONTINUOUS.spec, aggregator=PCGrad)
    agent.cuda_graphs = True
    with pytest.raises(BadInput, match="actor-critic take tasks apart"):
        agent.load_state(agent.state())
