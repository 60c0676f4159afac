"""Products in bfloat16: which are, what comes out, and that every network of an agent is told. Shapes: B batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import agents
import envs
from mtrl.training.build import build_agent, build_suite
from mtrl.config.schema import resolve_config
from mtrl.networks import Output, PolicyArchitecture, run
from mtrl.networks.layers import ParallelLinear, TaskHeads, output_linear
from mtrl.networks.experts.moore import MOORE, orthonormalized
from mtrl.optim.precision import MixedPrecision
from tests.networks.test_architectures import CASES

TASKS = torch.zeros(4, dtype=torch.int64)


class OneLayer(PolicyArchitecture):
    """A product, said in every way that an `Output` has."""

    def __init__(self, layer: nn.Module):
        nn.Module.__init__(self)
        self.layer = layer

    def forward(self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None) -> Output:
        values = self.layer(features)
        return Output(values, route=task_ids, losses={"sum": values.sum(0)}, diagnostics={"values": values.detach()})


@dataclass(frozen=True)
class Case:
    layer: nn.Linear
    features: Tensor

    @property
    def exact(self) -> Tensor:
        return self.features @ self.layer.weight.T + self.layer.bias

    @property
    def rounded(self) -> Tensor:
        """The product of rounded operands, rounded."""
        operands = (self.features, self.layer.weight.T, self.layer.bias)
        features, weight, bias = (value.bfloat16().double() for value in operands)
        return (features @ weight + bias).bfloat16().float()


@pytest.fixture
def case() -> Case:
    generator = torch.Generator().manual_seed(1)
    layer = nn.Linear(8, 3)
    nn.init.normal_(layer.weight, generator=generator)
    return Case(layer, torch.randn(4, 8, generator=generator))


def test_single_precision_is_the_default(case: Case) -> None:
    torch.testing.assert_close(run(OneLayer(case.layer), case.features, TASKS).values, case.exact)


def test_products_round_their_operands_and_what_comes_out_is_float32(case: Case) -> None:
    network = OneLayer(case.layer)
    network.precision = "bfloat16"
    output = run(network, case.features, TASKS)
    torch.testing.assert_close(output.values, case.rounded, rtol=2**-7, atol=1e-6)
    assert torch.equal(network(features=case.features, task_ids=TASKS).values, output.values)
    assert not torch.allclose(output.values, case.exact, rtol=1e-4)
    assert output.values.dtype == output.losses["sum"].dtype == output.diagnostics["values"].dtype == torch.float32
    assert output.route is not None
    assert output.route.dtype == torch.int64
    output.values.sum().backward()
    assert case.layer.weight.grad is not None
    assert case.layer.weight.grad.dtype == torch.float32


def test_last_layers_stay_exact(case: Case) -> None:
    last = output_linear(8, 3)
    last.load_state_dict(case.layer.state_dict())
    network = OneLayer(last)
    network.precision = "bfloat16"
    torch.testing.assert_close(run(network, case.features, TASKS).values, case.exact)


@pytest.mark.parametrize("task_ids", [[0, 0, 1, 1], [1, 0, 0, 1]])
def test_task_heads_stay_exact(case: Case, task_ids: list[int]) -> None:
    heads, tasks = TaskHeads(8, 3, 2), torch.tensor(task_ids)
    exact = heads(case.features, tasks)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(heads(case.features, tasks), exact)


@pytest.mark.parametrize(("cls", "config"), CASES)
def test_no_architecture_rounds_what_it_gives(cls: type[PolicyArchitecture], config: Any) -> None:
    network = cls(8, 3, 2, config)
    network.precision = "bfloat16"
    values = run(network, torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), TASKS).values
    assert not torch.equal(values, values.bfloat16().float())


def test_gram_schmidt_stays_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly parallel experts, which rounding would leave far from orthogonal."""
    network = MOORE(8, 2, 3, MOORE.Config(width=32, depth=2))
    network.precision = "bfloat16"
    last = cast(ParallelLinear, network.experts.layers[-1])
    with torch.no_grad():
        last.weight[1:] = last.weight[:1] + 0.02 * last.weight[1:]
    bases: list[Tensor] = []

    def kept(vectors: Tensor) -> Tensor:
        bases.append(orthonormalized(vectors))
        return bases[-1]

    monkeypatch.setattr("mtrl.networks.experts.moore.orthonormalized", kept)
    run(network, torch.randn(64, 8, generator=torch.Generator().manual_seed(1)), torch.arange(64) % 3)
    products = bases[0] @ bases[0].transpose(1, 2)
    assert float((products - torch.eye(4)).detach().abs().max()) < 0.01


@pytest.mark.parametrize("agent", ["sac", "ppo"])
@pytest.mark.parametrize("policy", ["single", "distral"])
def test_every_network_of_an_agent_is_told(agent: str, policy: str) -> None:
    agents.register()
    envs.register()
    for precision in ("float32", "bfloat16"):
        config = resolve_config(
            {"suite": "point-mass", "agent": agent, "policy": policy, "precision": precision, "num_workers": 0}
        )
        built = build_agent(config, build_suite(config.suite, 1), torch.device("cpu"))
        networks = [module for module in built.modules() if isinstance(module, MixedPrecision)]
        assert len(networks) >= 3
        assert {network.precision for network in networks} == {precision}
