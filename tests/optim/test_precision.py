"""Products in bfloat16: which are, what comes out, and that agents learn and act in it. Shapes: B batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from agents.ppo import PPO
from agents.sac import SAC
from mtrl.agent import Agent, Components
from mtrl.aggregation.projection.pcgrad import PCGrad
from mtrl.networks import PolicyArchitecture, run
from mtrl.networks.experts.moore import MOORE, orthonormalized
from mtrl.networks.layers import Float32LayerNorm, ParallelLinear, TaskHeads, output_linear
from mtrl.optim.precision import autocast
from mtrl.policies.distral import Distral
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from tests.agents.constants import CONTINUOUS
from tests.networks.test_architectures import AGENTS, CASES

CPU = torch.device("cpu")
TASKS = torch.zeros(4, dtype=torch.int64)


def features() -> Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(1))


def normal(layer: nn.Linear) -> nn.Linear:
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(2))
    return layer


def test_single_precision_rounds_nothing() -> None:
    layer = normal(nn.Linear(8, 3))
    exact = layer(features())
    with autocast("float32", CPU)():
        assert torch.equal(layer(features()), exact)


def test_products_round_their_operands_and_gradients_are_float32() -> None:
    layer = normal(nn.Linear(8, 3))
    operands = (value.bfloat16().double() for value in (features(), layer.weight.T, layer.bias))
    inputs, weight, bias = operands
    with autocast("bfloat16", CPU)():
        found = layer(features())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), (inputs @ weight + bias).bfloat16().double(), rtol=2**-7, atol=1e-6)
    assert not torch.allclose(found.float(), layer(features()), rtol=1e-4)
    found.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("layer", [output_linear(8, 3, bound=1.0), Float32LayerNorm(8)])
def test_last_layers_and_normalisations_stay_exact(layer: nn.Module) -> None:
    exact = layer(features())
    with autocast("bfloat16", CPU)():
        assert torch.equal(layer(features()), exact)


@pytest.mark.parametrize("task_ids", [[0, 0, 1, 1], [1, 0, 0, 1]])
def test_task_heads_stay_exact(task_ids: list[int]) -> None:
    heads, tasks = TaskHeads(8, 3, 2), torch.tensor(task_ids)
    exact = heads(features(), tasks)
    with autocast("bfloat16", CPU)():
        assert torch.equal(heads(features(), tasks), exact)


@pytest.mark.parametrize(("cls", "config"), CASES)
def test_no_architecture_rounds_what_it_gives(cls: type[PolicyArchitecture], config: Any) -> None:
    network = cls(8, 3, 2, config)
    with autocast("bfloat16", CPU)():
        values = run(network, features(), TASKS).values
    assert values.dtype == torch.float32
    assert not torch.equal(values, values.bfloat16().float())


def test_gram_schmidt_stays_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly parallel experts, which rounding would leave far from orthogonal."""
    network = MOORE(8, 2, 3, MOORE.Config(width=32, depth=2))
    last = cast(ParallelLinear, network.experts.layers[-1])
    with torch.no_grad():
        last.weight[1:] = last.weight[:1] + 0.02 * last.weight[1:]
    bases: list[Tensor] = []

    def kept(vectors: Tensor) -> Tensor:
        bases.append(orthonormalized(vectors))
        return bases[-1]

    monkeypatch.setattr("mtrl.networks.experts.moore.orthonormalized", kept)
    with autocast("bfloat16", CPU)():
        run(network, torch.randn(64, 8, generator=torch.Generator().manual_seed(1)), torch.arange(64) % 3)
    products = bases[0] @ bases[0].transpose(1, 2)
    assert float((products - torch.eye(4)).detach().abs().max()) < 0.01


@pytest.mark.parametrize("aggregator", [{}, {"aggregator": PCGrad}], ids=["mean", "pcgrad"])
@pytest.mark.parametrize("cls", [SAC, PPO])
def test_every_network_of_an_agent_learns_and_acts_in_the_runs_precision(cls: type[Agent], aggregator: Any) -> None:
    class Rounding(cls):  # type: ignore[misc, valid-type]
        def __init__(self, components: Components, config: Any):
            super().__init__(replace(components, precision="bfloat16"), config)

    agent = make_agent(Rounding, AGENTS[cls], CONTINUOUS.spec, policy=Distral, **aggregator)
    passes: Counter[bool] = Counter()
    networks = [module for module in agent.modules() if isinstance(module, PolicyArchitecture)]
    for network in networks:
        network.register_forward_hook(lambda *_: passes.update([torch.is_autocast_enabled("cpu")]))
    for _ in training_loop(make_train_state(agent, CONTINUOUS), 16):
        pass
    assert len(networks) >= 3
    assert passes[True] > len(networks)
    assert not passes[False]
    assert not torch.is_autocast_enabled("cpu")
    assert {parameter.dtype for parameter in agent.parameters()} == {torch.float32}
    for group in agent.groups().values():
        moments = [value.dtype for own in group.state()["optimizer"].values() for value in own.values()]
        assert set(moments) == {torch.float32}
