"""Auxiliary tasks in a parameter group: losses, gates, parameters, streams. Shapes: B batch, M tasks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agents.ppo import PPO
from agents.sac import SAC
from mtrl.agent import Agent, Components
from mtrl.aggregation import Parameters, TaskLosses
from mtrl.auxiliary import AuxiliaryInputs, AuxiliaryTask
from mtrl.encoders.mlp import MLPEncoder
from mtrl.errors import BadInput
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.build import Chosen
from mtrl.training.run import training_loop
from mtrl.types import Batch, State
from tests.agents.constants import CONTINUOUS, batch_of

CONFIGS: dict[type[Agent], Any] = {
    SAC: SAC.Config(batch_size=24, learning_starts=12),
    PPO: PPO.Config(rollout_steps=4, epochs=2, minibatches=2),
}


class Linear(AuxiliaryTask):
    """Each task's loss is its slope times the mean feature, plus a weight of its own and noise."""

    slopes = (1.0, -1.0, 1.0)

    def __init__(self, context: Any, config: Any):
        super().__init__(context, config)
        self.own = nn.Parameter(torch.zeros(()))
        self.target = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def columns(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return {"noise": torch.rand(len(batch.reward), generator=generator)}

    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        assert torch.equal(inputs.encode(inputs.batch.observation), inputs.features)
        assert inputs.columns["noise"].shape == inputs.batch.reward.shape
        mean = inputs.features.new_zeros(3).index_add(0, inputs.batch.task_ids, inputs.features.mean(1))
        return mean * torch.tensor(self.slopes) + self.own

    def after_step(self, encoder: nn.Module) -> None:
        self.steps += 1


def agent_with(cls: type[Agent], **config: Any) -> Any:
    return make_agent(
        cls, CONFIGS[cls], CONTINUOUS.spec, encoder=MLPEncoder, auxiliary=[Chosen(Linear, Linear.Config(**config))]
    )


def main_losses(group: Any) -> Any:
    """A loss (M,) of the mean feature, the same for all tasks, in the form of an agent's."""

    def losses(parameters: Parameters, batch: Batch) -> TaskLosses:
        features = group.bind(group.encoder, parameters, "encoder.")(batch.observation)
        mean = features.new_zeros(3).index_add(0, batch.task_ids, features.mean(1))
        return TaskLosses(mean, features=features)

    return losses


@pytest.mark.parametrize(("gate", "expected"), [(False, [3.0, -1.0, 3.0]), (True, [3.0, 1.0, 3.0])])
def test_a_gate_leaves_out_the_task_whose_gradient_opposes_the_agents(gate: bool, expected: list[float]) -> None:
    agent = agent_with(SAC, coefficient=2.0, gate=gate)
    batch = batch_of([0, 1, 2], observation=torch.arange(15.0).view(3, 5))
    features = agent.critics.encoder(batch.observation).mean(1).detach()
    result = agent.critic_group.step(main_losses(agent.critic_group), batch)
    torch.testing.assert_close(result.losses, features * torch.tensor(expected))
    torch.testing.assert_close(result.metrics["auxiliary/Linear"], features * torch.tensor(Linear.slopes))


def test_networks_of_a_task_are_trained_with_the_encoder_and_targets_are_left_alone() -> None:
    agent = agent_with(PPO)
    group = agent.groups()["actor-critic"]
    assert "auxiliary.Linear.own" in group.parameters
    assert "auxiliary.Linear.target" not in group.parameters
    task = agent.networks.auxiliary["Linear"]
    group.step(main_losses(group), batch_of([0, 1, 2]))
    assert task.own.item() != 0
    assert task.target.item() == 0
    assert task.steps.item() == 1


@pytest.mark.parametrize("cls", CONFIGS)
def test_a_restored_agent_goes_on_as_the_saved_one(cls: type[Agent]) -> None:
    def trained(state: State | None) -> State:
        agent = agent_with(cls, gate=True)
        if state is not None:
            agent.load_state(state)
        group = next(iter(agent.groups().values()))
        group.step(main_losses(group), batch_of([0, 1, 1, 2]))
        return agent.state()

    first = trained(None)
    left, right = trained(first), trained(first)
    assert any(name.endswith("auxiliary.Linear.steps") for name in left["modules"])
    for name, value in left["modules"].items():
        assert torch.equal(value, right["modules"][name])
    for name, group in left["groups"].items():
        for task, stream in group["auxiliary_streams"].items():
            assert torch.equal(stream, right["groups"][name]["auxiliary_streams"][task])
            assert not torch.equal(stream, first["groups"][name]["auxiliary_streams"][task])


@pytest.mark.parametrize("cls", CONFIGS)
def test_other_initial_weights_and_streams_stay_as_without_auxiliary_tasks(cls: type[Agent]) -> None:
    plain = make_agent(cls, CONFIGS[cls], CONTINUOUS.spec, encoder=MLPEncoder).state()
    state = agent_with(cls, coefficient=0.0).state()
    assert all(torch.equal(value, state["modules"][name]) for name, value in plain["modules"].items())
    assert all(torch.equal(value, state["streams"][name]) for name, value in plain["streams"].items())


@pytest.mark.parametrize("cls", CONFIGS)
def test_losses_are_logged_per_task(cls: type[Agent]) -> None:
    agent = agent_with(cls, coefficient=0.0)
    metrics: dict[str, Tensor] = {}
    for progress in training_loop(make_train_state(agent, CONTINUOUS), 80):
        metrics |= progress.metrics
    assert metrics["auxiliary/Linear"].shape == (3,)


def test_an_agent_that_names_no_encoder_takes_no_auxiliary_tasks() -> None:
    class Deaf(PPO):
        def __init__(self, components: Components, config: Any):
            def without_encoder(*arguments: Any, encoder: Any = None, **options: Any) -> Any:
                return type(components).parameter_group(components, *arguments, **options)

            object.__setattr__(components, "parameter_group", without_encoder)
            super().__init__(components, config)

    with pytest.raises(BadInput, match=r"Deaf.* takes no auxiliary tasks \(Linear\)"):
        make_agent(Deaf, CONFIGS[PPO], CONTINUOUS.spec, encoder=MLPEncoder, auxiliary=[Linear])


@pytest.mark.parametrize("trains", ["encoder", "policy"])
def test_a_task_of_any_group_reads_the_steps_that_it_asks_for(trains: str) -> None:
    seen: list[tuple[int, bool]] = []

    class Steps(AuxiliaryTask):
        horizon = 3
        learns_features = False

        def forward(self, inputs: AuxiliaryInputs) -> Tensor:
            steps = list(inputs.steps(3))
            seen.append((len(steps), torch.equal(inputs.next_observation, steps[0][1])))
            return torch.zeros(3)

    Steps.trains = trains  # type: ignore[assignment]
    config = SAC.Config(batch_size=24, learning_starts=12, n_step=5)
    agent = make_agent(SAC, config, CONTINUOUS.spec, encoder=MLPEncoder, auxiliary=[Chosen(Steps, Steps.Config())])
    for _ in training_loop(make_train_state(agent, CONTINUOUS), 60):
        pass
    assert seen
    assert set(seen) == {(3, True)}
