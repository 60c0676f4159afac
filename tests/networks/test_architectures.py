"""Every registered architecture, and what is particular to one. Shapes: B batch, M tasks."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest
import torch

from agents.ppo import PPO
from agents.sac import SAC
from mtrl.agent import Agent
from mtrl.aggregation import GradientAggregator, Mean
from mtrl.aggregation.projection.pcgrad import PCGrad
from mtrl.networks import Ensemble, Output, PolicyArchitecture, architectures, run
from mtrl.networks.hard_sharing.mlp import MLP
from mtrl.networks.hard_sharing.multi_head import MultiHead
from mtrl.networks.layers import TaskHeads, one_hot
from mtrl.networks.modular.routing import Routing
from mtrl.networks.size import num_parameters
from mtrl.testing import check_architecture
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from tests.agents.constants import CONTINUOUS, DISCRETE


def small_config(cls: type[PolicyArchitecture]) -> Any:
    """The settings of a class with narrow layers."""
    sizes = [field.name for field in dataclasses.fields(cls.Config) if field.name.endswith(("width", "_size"))]
    return cls.Config(**dict.fromkeys(sizes, 24))


ROUTING = small_config(Routing)
CASES = [
    *(pytest.param(cls, small_config(cls), id=name) for name, cls in architectures.items()),
    *(
        pytest.param(Routing, replace(ROUTING, **settings), id=f"routing {', '.join(settings.values())}")
        for settings in (
            {"learning": "reinforce"},
            {"learning": "wpl"},
            {"router": "shared"},
            {"router": "shared", "learning": "reinforce"},
        )
    ),
    pytest.param(MultiHead, replace(small_config(MultiHead), layer_norm=True), id="multi-head, layer norm"),
]
"""Every registered architecture, each way of routing, and layer normalisation."""


@pytest.mark.parametrize(("cls", "config"), CASES)
def test_every_registered_architecture_keeps_the_contract(cls: type[PolicyArchitecture], config: Any) -> None:
    check_architecture(cls, config)


@pytest.mark.parametrize(("cls", "config"), CASES)
def test_the_representation_is_what_the_head_reads(cls: type[PolicyArchitecture], config: Any) -> None:
    network = cls(5, 4, 3, config)
    output = run(network, torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3)
    if architectures.get("separate") is cls:
        assert output.representation is None
        return
    assert output.representation is not None
    assert output.representation.dim() == 2
    assert len(output.representation) == 6
    (gradient,) = torch.autograd.grad(output.values.sum(), output.representation, retain_graph=True)
    assert bool((gradient != 0).any(1).all())
    reached = torch.autograd.grad(output.representation.sum(), list(network.parameters()), allow_unused=True)
    assert any(gradient is not None and bool(gradient.any()) for gradient in reached)


AGENTS: dict[type[Agent], Any] = {
    SAC: SAC.Config(batch_size=24, learning_starts=8),
    PPO: PPO.Config(rollout_steps=4, epochs=1, minibatches=2),
}
"""Each learns within four vector steps of four environments."""


@pytest.mark.parametrize("aggregator", [Mean, PCGrad])
@pytest.mark.parametrize("agent_type", AGENTS)
@pytest.mark.parametrize(("cls", "config"), CASES)
def test_every_agent_learns_with_every_registered_architecture(
    cls: type[PolicyArchitecture], config: Any, agent_type: type[Agent], aggregator: type[GradientAggregator]
) -> None:
    components: Any = {"architecture": cls, "architecture_config": config, "aggregator": aggregator}
    for suite in (CONTINUOUS, DISCRETE):
        agent = make_agent(agent_type, AGENTS[agent_type], suite.spec, **components)
        state = make_train_state(agent, suite)
        groups = agent.groups().values()
        before = [[parameter.clone() for parameter in group.parameters.values()] for group in groups]
        last = list(training_loop(state, 4 * state.envs.num_envs))[-1]
        assert last.metrics, "it has not learnt yet"
        assert all(bool(torch.isfinite(values).all()) for values in last.metrics.values())
        assert {len(values) for values in last.metrics.values()} == {suite.spec.num_tasks}
        for group, old in zip(groups, before, strict=True):
            pairs = zip(old, group.parameters.values(), strict=True)
            assert any(not torch.equal(*pair) for pair in pairs), f"{group.name} has not moved"


@pytest.mark.parametrize("task_input", ["embedding", "none"])
def test_every_task_input_of_the_perceptron_keeps_the_contract(task_input: str) -> None:
    check_architecture(MLP, MLP.Config(width=16, depth=2, task_input=task_input))


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name, _ in architectures.items()])
def test_every_registered_architecture_keeps_the_contract_at_its_own_size(name: str) -> None:
    check_architecture(architectures.get(name))


def test_the_multi_head_actor_of_mt10_has_the_published_size() -> None:
    # (39 + 10) x 400, twice 400 x 400, and ten heads of 400 x 8, each with its biases.
    assert num_parameters(MultiHead(39, 8, 10, MultiHead.Config())) == 372_880


def test_the_perceptron_of_mt10_has_the_expected_size() -> None:
    shared = 400 + 2 * (400 * 400 + 400) + 400 * 8 + 8
    for task_input, task_features, extra in (("one-hot", 10, 0), ("embedding", 64, 640), ("none", 0, 0)):
        network = MLP(39, 8, 10, MLP.Config(task_input=task_input))
        assert num_parameters(network) == (39 + task_features) * 400 + shared + extra


def test_without_a_task_input_all_tasks_get_the_same_output() -> None:
    features = torch.ones(1, 5)
    for task_input, same in (("none", True), ("one-hot", False), ("embedding", False)):
        network = MLP(5, 2, 3, MLP.Config(width=8, task_input=task_input))
        first, second = (network(features, torch.tensor([task])).values for task in (0, 1))
        assert torch.equal(first, second) == same


def test_every_row_gets_the_head_of_its_own_task() -> None:
    heads = TaskHeads(4, 2, 3)
    features, tasks = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([2, 0, 0, 1, 2])
    found = heads(features, tasks)
    weight, bias = heads.heads.weight.view(3, 2, 4), heads.heads.bias.view(3, 2)
    for row, task in enumerate(tasks):
        torch.testing.assert_close(found[row], weight[task] @ features[row] + bias[task])


def test_rows_in_equal_shares_get_what_others_get() -> None:
    heads = TaskHeads(4, 2, 3)
    features, tasks = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 0, 1, 1, 2, 2])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(heads(features, tasks)[order], heads(features[order], tasks[order]))


def test_a_heads_gradient_comes_from_its_own_task_alone() -> None:
    heads = TaskHeads(4, 2, 3)
    heads(torch.ones(6, 4), torch.tensor([0, 0, 2, 2, 2, 0])).sum().backward()
    reached = heads.heads.weight.grad.view(3, 2, 4).abs().sum((1, 2)) > 0
    assert reached.tolist() == [True, False, True]


def test_one_hot_marks_the_task() -> None:
    assert one_hot(torch.tensor([1, 0]), 3).tolist() == [[0, 1, 0], [1, 0, 0]]


class Talkative(PolicyArchitecture):
    """Has losses and diagnostics to tell."""

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: object):
        super().__init__(in_features, out_features, num_tasks, config)
        self.layer = torch.nn.Linear(in_features, out_features)

    def forward(self, features: torch.Tensor, task_ids: torch.Tensor) -> Output:
        return Output(self.layer(features), losses={"size": self.layer.bias.square().sum().expand(3)})


def test_an_ensemble_stacks_values_and_averages_auxiliary_losses() -> None:
    members = [Talkative(2, 1, 3, None) for _ in range(3)]
    features, tasks = torch.ones(4, 2), torch.arange(4) % 3
    together = Ensemble(members)(features, tasks)
    alone = [run(member, features, tasks) for member in members]
    assert together.values.shape == (3, 4, 1)
    for index, output in enumerate(alone):
        assert torch.equal(together.values[index], output.values)
    torch.testing.assert_close(together.losses["size"], sum(output.losses["size"] for output in alone) / 3)


def test_a_bare_tensor_counts_as_an_output_without_extras() -> None:
    output = run(MLP(2, 1, 1, MLP.Config(width=4)), torch.ones(3, 2), torch.zeros(3, dtype=torch.int64))
    assert (output.route, dict(output.losses), dict(output.diagnostics)) == (None, {}, {})
