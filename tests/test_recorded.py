"""Losses written down as programs: the same bits as the functions that they were, and what cannot be one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mtrl.recorded
from agents.ppo import PPO
from agents.sac import SAC
from mtrl.agent import Agent
from mtrl.aggregation import TaskLosses
from mtrl.aggregation.pcgrad import PCGrad
from mtrl.errors import BadInput
from mtrl.networks import PolicyArchitecture
from mtrl.networks.separate import Separate
from mtrl.normalization.popart import PopArt
from mtrl.policies.distral import Distral
from mtrl.recorded import CALLS_BEFORE, recorded
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.trainer import train
from mtrl.types import Batch
from tests.agents.constants import CONTINUOUS, DISCRETE, batch_of
from tests.networks.test_architectures import CASES

AGENTS: dict[type[Agent], Any] = {
    SAC: SAC.Config(batch_size=24, random_steps=2),
    PPO: PPO.Config(rollout_steps=24, epochs=3, minibatches=4),  # as many rows of every task
}


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `recorded` writes down: None where it cannot."""
    found: list[Any] = []
    check = mtrl.recorded._checked_program

    def noted(*arguments: Any) -> Any:
        found.append(check(*arguments))
        return found[-1]

    monkeypatch.setattr("mtrl.recorded._checked_program", noted)
    return found


def bits(agent: Agent, world: Any, vector_steps: int) -> dict[str, Tensor]:
    state = make_train_state(agent, world)
    list(train(state, vector_steps * state.envs.num_envs))
    return {name: value.clone() for name, value in agent.state_dict().items()}


def check_same_bits(agent_type: type[Agent], **parts: Any) -> None:
    for world in (CONTINUOUS, DISCRETE):
        plain, by_programs = (
            bits(make_agent(agent_type, AGENTS[agent_type], world.suite, record_losses=on, **parts), world, 24)
            for on in (False, True)
        )
        assert all(torch.equal(plain[name], by_programs[name]) for name in plain)


@pytest.mark.parametrize("agent_type", AGENTS)
@pytest.mark.parametrize(("cls", "config"), CASES)
def test_programs_make_the_bits_of_the_losses_of_every_architecture(
    cls: type[PolicyArchitecture], config: Any, agent_type: type[Agent], programs: list[Any]
) -> None:
    check_same_bits(agent_type, architecture=cls, architecture_config=config)
    if cls is not Separate:  # it reads how many rows each task has
        assert programs
        assert None not in programs


@pytest.mark.parametrize("agent_type", AGENTS)
def test_normalisers_and_policies_are_written_down_too(agent_type: type[Agent], programs: list[Any]) -> None:
    check_same_bits(agent_type, normalizer=PopArt, policy=Distral)
    assert programs
    assert None not in programs


def test_what_takes_tasks_apart_is_not_written_down(programs: list[Any]) -> None:
    agent = make_agent(PPO, AGENTS[PPO], CONTINUOUS.suite, aggregator=PCGrad, record_losses=True)
    bits(agent, CONTINUOUS, 24)
    assert not programs


class Loss(nn.Module):
    """One weight per task, and what the parametrised losses do with it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.count = torch.zeros(())
        self.factor = 1.0

    def plain(self, batch: Batch) -> TaskLosses:
        error = self.weight[batch.task_ids] * self.factor - batch.reward
        return TaskLosses(error.square().view(3, -1).mean(1), {"error": error.detach()})

    def reads_a_value(self, batch: Batch) -> TaskLosses:
        return TaskLosses(self.weight * (2.0 if batch.reward.sum() > 0 else 3.0))

    def takes_a_number_out(self, batch: Batch) -> TaskLosses:
        return TaskLosses(self.weight * batch.reward.sum().item())

    def leaves_rows_out(self, batch: Batch) -> TaskLosses:
        return TaskLosses(self.weight * batch.reward[batch.reward > 0].mean())

    def goes_through_numpy(self, batch: Batch) -> TaskLosses:
        return TaskLosses(self.weight * torch.from_numpy(batch.reward.numpy()).mean())

    def has_its_own_backward_pass(self, batch: Batch) -> TaskLosses:
        return TaskLosses(Doubled.apply(self.weight))

    def keeps_part_out_of_the_graph(self, batch: Batch) -> TaskLosses:
        with torch.no_grad():
            scale = self.weight * 2
        return TaskLosses(self.weight * scale)

    def is_in_another_precision(self, batch: Batch) -> TaskLosses:
        with torch.autocast("cpu", torch.bfloat16):
            product = batch.reward.view(3, -1) @ torch.ones(len(batch.reward) // 3, 1)
        return TaskLosses(self.weight * product.float().squeeze(1))

    def turns_a_matrix(self, batch: Batch) -> TaskLosses:
        return TaskLosses((batch.action.T @ batch.observation)[:, 0].sum() * self.weight)

    def joins_by_name(self, batch: Batch) -> TaskLosses:
        joined = torch.cat(tensors=[batch.reward, batch.shares], dim=0)
        return TaskLosses(self.weight * joined.mean())

    def has_a_number_of_numpy(self, batch: Batch) -> TaskLosses:
        return TaskLosses(self.weight * np.float64(2) * batch.reward.mean())

    def has_a_generator(self, batch: Batch) -> TaskLosses:
        generator = torch.Generator().manual_seed(1)
        return TaskLosses(self.weight * torch.rand(3, generator=generator) * batch.reward.mean())

    def fills_a_tensor(self, batch: Batch) -> TaskLosses:
        filled = torch.zeros(3)
        filled[:2] = self.weight[1:]
        first, *_ = (filled * batch.reward.mean()).split([2, 1])
        return TaskLosses(torch.cat([first, first[:1]]))


class Doubled(torch.autograd.Function):
    """Twice its input, with a gradient of 5."""

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return 2 * values

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 5 * gradient


def batches(number: int, task_ids: list[int] | None = None) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    task_ids = task_ids or [0, 0, 1, 1, 2, 2]
    return [batch_of(task_ids, reward=torch.randn(len(task_ids), generator=generator)) for _ in range(number)]


def result(function: Callable[[Batch], TaskLosses], batch: Batch, weight: Tensor) -> list[Tensor]:
    losses, rows = function(batch)
    return [losses, *rows.values(), *torch.autograd.grad(losses.sum(), weight)]


@pytest.mark.parametrize(
    ("name", "has_program"),
    [
        ("plain", True),
        ("keeps_part_out_of_the_graph", True),
        ("fills_a_tensor", True),
        ("turns_a_matrix", True),
        ("joins_by_name", True),
        ("has_a_number_of_numpy", False),
        ("has_a_generator", False),
        ("reads_a_value", False),
        ("takes_a_number_out", False),
        ("leaves_rows_out", False),
        ("goes_through_numpy", False),
        ("has_its_own_backward_pass", False),
        ("is_in_another_precision", False),
    ],
)
def test_a_loss_is_itself_whether_it_can_be_written_down_or_not(
    name: str, has_program: bool, programs: list[Any]
) -> None:
    loss = Loss()
    function = getattr(loss, name)
    by_program = recorded(function, [loss.weight], name)
    for batch in batches(2 * CALLS_BEFORE + 2):
        for own, expected in zip(
            result(by_program, batch, loss.weight), result(function, batch, loss.weight), strict=True
        ):
            assert torch.equal(own, expected)
        with torch.no_grad():
            loss.weight *= 1.5  # programs read parameters where they lie
    assert [program is not None for program in programs] == [has_program]


@pytest.mark.parametrize("calls", [10, 100, 150, 300])
def test_a_number_that_changes_behind_a_program_is_told(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtrl.recorded.CALLS_BETWEEN_CHECKS", 150)
    loss = Loss()
    by_program = recorded(loss.plain, [loss.weight], "Loss.plain")
    for batch in batches(calls - 1):
        by_program(batch)
    loss.factor = 0.9
    with pytest.raises(BadInput, match=r"Loss\.plain depends on more than its batch .* --no-record-losses"):
        by_program(batches(1)[0])


def test_a_fault_of_the_loss_shows_as_its_own() -> None:
    loss = Loss()

    def fails(batch: Batch) -> TaskLosses:
        calls.append(1)
        if len(calls) > CALLS_BEFORE:
            raise KeyError("mine")
        return loss.plain(batch)

    calls: list[int] = []
    by_program = recorded(fails, [loss.weight], "fails")
    for batch in batches(CALLS_BEFORE):
        by_program(batch)
    with pytest.raises(KeyError, match="mine"):
        by_program(batches(1)[0])


def test_what_is_not_finite_is_left_to_those_who_look_for_it() -> None:
    loss = Loss()
    by_program = recorded(loss.plain, [loss.weight], "Loss.plain")
    for batch in batches(CALLS_BEFORE):
        by_program(batch)
    lost = batch_of([0, 0, 1, 1, 2, 2], reward=torch.tensor([0, torch.nan, 0, 0, 0, 0]))
    assert by_program(lost).losses.isnan().tolist() == [True, False, False]


def test_forms_that_hardly_come_again_have_no_program_and_idle_ones_make_room(
    programs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtrl.recorded.MAX_PROGRAMS", 2)
    monkeypatch.setattr("mtrl.recorded.IDLE_CALLS", 50)
    loss = Loss()

    def first_row(batch: Batch) -> TaskLosses:
        return TaskLosses(loss.weight * batch.reward[0])

    by_program = recorded(first_row, [loss.weight], "first_row")

    def call(form: int, times: int) -> None:
        for batch in batches(times, [0] * (1 + form) + [1, 2]):
            assert torch.equal(by_program(batch).losses, first_row(batch).losses)

    for form in range(3):
        call(form, CALLS_BEFORE)
    assert not programs
    for form in range(3):  # the third finds no room
        call(form, 2)
    assert len(programs) == 2
    for _ in range(40):  # nor where all are in use
        for form in range(3):
            call(form, 1)
    assert len(programs) == 2
    call(1, 60)
    call(2, 2)
    assert len(programs) == 3


def test_what_is_joined_twice_is_joined_once_if_nobody_writes_to_it() -> None:
    loss = Loss()

    def twice(batch: Batch) -> TaskLosses:
        joined = [torch.cat([batch.reward, batch.shares]) for _ in range(2)]
        changed = [torch.cat([batch.shares, batch.reward]).mul_(2) for _ in range(2)]
        return TaskLosses(loss.weight * torch.stack([*joined, *changed]).sum())

    by_program = recorded(twice, [loss.weight], "twice")
    for batch in batches(CALLS_BEFORE + 2):
        assert torch.equal(by_program(batch).losses, twice(batch).losses)
    with mtrl.recorded._Recorder() as recorder:
        by_program(batch)
    assert [function for function, *_ in recorder.calls].count(torch.cat) == 3
