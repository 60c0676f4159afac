"""Soft modularization against numbers worked by hand. Shapes: B batch, n modules, M tasks."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mtrl.config.schema import Choice
from mtrl.networks.architecture import run as forward
from mtrl.networks.layers import ParallelLinear
from mtrl.networks.modular.soft_modules import DeepSoftModules, SoftModules
from mtrl.training import run
from tests.training.tiny_runs import in_child, tiny_config


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_shallow_actor_of_mt10_has_the_published_size() -> None:
    assert num_parameters(SoftModules(39, 8, 10, SoftModules.Config())) == 691_022


def test_the_deep_actor_of_mt10_has_the_size_of_its_equations() -> None:
    embeddings = (39 * 400 + 400) + (400 * 400 + 400) + (10 * 400 + 400)
    gating = (400 * 256 + 256) + (256 * 256 + 256)
    conditions = sum(16 * step * 256 + 256 for step in (1, 2, 3))
    routers = 3 * (256 * 16 + 16) + (256 * 4 + 4)
    modules = 4 * (400 * 128 + 128) + 3 * 4 * (128 * 128 + 128)
    expected = embeddings + gating + conditions + routers + modules + (128 * 8 + 8)
    assert num_parameters(DeepSoftModules(39, 8, 10, DeepSoftModules.Config())) == expected


def tiny(activation: str) -> SoftModules:
    """One input, one unit everywhere, two tasks; every weight a number that can be followed by hand."""
    config = SoftModules.Config(width=1, embedding_size=1, gating_width=1, activation=activation)  # type: ignore[arg-type]
    network = SoftModules(1, 1, 2, config)

    def fill(layer: nn.Module, weight: list[float], bias: list[float]) -> None:
        layer.weight.data.copy_(torch.tensor(weight).view_as(layer.weight))
        layer.bias.data.copy_(torch.tensor(bias).view_as(layer.bias))

    fill(network.observation_embedding[0], [1.0], [0.0])
    fill(network.observation_embedding[2], [2.0], [0.0])
    fill(network.task_embedding, [1.0, 0.5], [0.0])
    fill(network.gating[1], [1.0], [0.0])
    fill(network.gating[3], [0.5], [0.0])
    fill(network.routers[0], [math.log(3), 0.0, 0.0, math.log(3)], [0.0] * 4)
    fill(network.conditions[0], [1.0, 0.0, 0.0, 0.0], [0.25])
    fill(network.routers[1], [0.0, math.log(2)], [0.0, 0.0])
    fill(network.first, [1.0, -3.0], [0.0, 0.0])
    fill(network.layers[0], [1.0, 2.0], [0.0, 1.0])
    fill(network.head, [3.0], [0.5])
    return network


def test_a_tiny_instance_gives_what_the_equations_give_by_hand() -> None:
    network = tiny("outside")
    # s = 1: f = 2. Task 0: h = 1, f h = 2, g = 1. Routing logits (log 3, 0 / 0, log 3), so rows (3/4, 1/4), (1/4, 3/4).
    # Second step: U = 3/4 + 1/4 = 1, times g = 1, logits (0, log 2), so (1/3, 2/3).
    # Modules: x_1 = 2, x_2 = -6. Targets: relu(6/4 - 6/4) = 0 and relu(2/4 - 18/4) = 0; x^2 = (0, 1);
    # relu(2/3) = 2/3, y = 3 * 2/3 + 1/2.
    output = network(torch.ones(1, 1), torch.tensor([0]))
    torch.testing.assert_close(output.diagnostics["routing_1"], torch.tensor([[[0.75, 0.25], [0.25, 0.75]]]))
    torch.testing.assert_close(output.diagnostics["routing_2"], torch.tensor([[[1 / 3, 2 / 3]]]))
    torch.testing.assert_close(output.values, torch.tensor([[2.5]]))


def test_the_paper_puts_the_activation_inside_the_sum() -> None:
    # As above, but relu(x^1) = (2, 0): targets 3/2 and 1/2, x^2 = (3/2, 2), 1/3 * 3/2 + 2/3 * 2 = 11/6, y = 6.
    output = tiny("inside")(torch.ones(1, 1), torch.tensor([0]))
    torch.testing.assert_close(output.values, torch.tensor([[6.0]]))


def test_the_task_changes_the_routing() -> None:
    # Task 1: h = 1/2, f h = 1, g = 1/2, logits log(3) / 2: sqrt(3) to 1. Second step: (p + 1/4) / 2.
    output = tiny("outside")(torch.ones(1, 1), torch.tensor([1]))
    own = math.sqrt(3) / (1 + math.sqrt(3))
    torch.testing.assert_close(output.diagnostics["routing_1"][0, 0], torch.tensor([own, 1 - own]))
    odds = 2 ** ((own + 0.25) / 2)
    torch.testing.assert_close(output.diagnostics["routing_2"][0, 0], torch.tensor([1, odds]) / (1 + odds))


@pytest.mark.parametrize("cls", [SoftModules, DeepSoftModules])
def test_every_row_of_a_routing_matrix_sums_to_one(cls: type[SoftModules]) -> None:
    config = cls.Config()
    network = cls(39, 8, 10, config)
    for router in network.routers:  # away from the near uniform start
        nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(1))
    features = 5 * torch.randn(20, 39, generator=torch.Generator().manual_seed(2))
    diagnostics = forward(network, features, torch.arange(20) % 10).diagnostics
    n, last = config.num_modules, config.num_layers
    assert list(diagnostics) == [f"routing_{step}" for step in range(1, last + 1)]
    for step, weights in enumerate(diagnostics.values(), start=1):
        assert weights.shape == (20, 1 if step == last else n, n)
        assert bool((weights >= 0).all())
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_routing_starts_near_uniform() -> None:
    features = torch.randn(6, 39, generator=torch.Generator().manual_seed(2))
    for weights in SoftModules(39, 8, 10, SoftModules.Config())(features, torch.arange(6)).diagnostics.values():
        torch.testing.assert_close(weights, torch.full_like(weights, 0.5), atol=0.05, rtol=0)


def test_parallel_layers_are_linear_layers_side_by_side() -> None:
    layer = ParallelLinear(3, 4, 2)
    nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(1))
    inputs = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(2))
    expected: list[Tensor] = [inputs[:, k] @ layer.weight[k] + layer.bias[k, 0] for k in range(3)]
    torch.testing.assert_close(layer(inputs), torch.stack(expected, dim=1))


@pytest.mark.slow
def test_routing_matrices_of_every_task_stand_in_the_metrics_of_a_run(tmp_path: Path) -> None:
    small = {"width": 8, "embedding_size": 8, "gating_width": 8}
    config = tiny_config("point-mass")
    config = replace(config, architecture=Choice("soft-modules", SoftModules.Config(**small)))
    assert in_child(lambda: run.train(config, tmp_path / "run")) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = next(row for row in reversed(rows) if "eval/kind" not in row)
    first, second = ([row for name, row in last.items() if name.startswith(f"actor/routing_{n}/")] for n in (1, 2))
    assert len(first) == len(second) == 4
    for matrix in first:
        assert [sum(row) for row in matrix] == pytest.approx([1, 1], rel=1e-5)
    for ((to_first, to_second),) in second:
        assert to_first + to_second == pytest.approx(1, rel=1e-5)
