"""The benchmark of architectures: its floor is of the products that are made, its hand-written update is SAC's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.updates.architectures import measure, table
from benchmarks.fused_multi_head import FusedMultiHeadSAC
from benchmarks.updates.matmul_floor import MatmulFloor, recorded_products
from benchmarks.updates.sac import UpdateSizes, learning_agent
from mtrl.networks import architectures

SMALL = UpdateSizes(suite="point-mass", batch_size=24)


def test_products_are_recorded_with_their_sizes_and_layouts_forward_and_backward() -> None:
    layer, inputs = torch.nn.Linear(3, 5), torch.ones(7, 3, requires_grad=True)
    products = recorded_products(lambda: layer(inputs).sum().backward())
    assert products[0].sizes == (7, 5, 3)
    assert products[0].layout == "nt"
    assert sorted(product.sizes for product in products[1:]) == [(5, 3, 7), (7, 3, 5)]
    assert sum(product.flops for product in products) == 3 * 2 * 3 * 5 * 7
    batched = recorded_products(lambda: torch.bmm(torch.ones(2, 3, 4), torch.ones(2, 4, 5)))
    assert [product.sizes for product in batched] == [(2, 3, 5, 4)]


def test_the_floor_replays_what_was_recorded() -> None:
    def update() -> None:
        torch.ones(4, 6).t() @ torch.ones(4, 3)
        torch.baddbmm(torch.zeros(1), torch.ones(5, 2, 3).transpose(0, 1), torch.ones(2, 3, 4))

    floor = MatmulFloor(recorded_products(update))
    assert [product.sizes for product in floor.products] == [(6, 3, 4), (2, 5, 4, 3)]
    assert recorded_products(floor.replay) == floor.products
    assert "2, 5, 4, 3" in floor.table(passes=1)


def test_the_update_by_hand_ends_in_the_metrics_and_parameters_of_ours() -> None:
    ours = learning_agent({"name": "multi-head", "width": 16, "depth": 2}, SMALL)
    by_hand = FusedMultiHeadSAC(ours.agent)
    shares = np.full(by_hand.num_tasks, 1 / by_hand.num_tasks)
    for _ in range(3):
        batch = ours.buffer.sample(SMALL.batch_size, shares)
        said = by_hand.update(batch)
        torch.testing.assert_close(said, ours.agent.learn_from(batch))
    agent = ours.agent
    pairs = [
        (by_hand.actor, agent.policy),
        *zip(by_hand.critics, agent.critics.ensemble.members, strict=True),
        *zip(by_hand.targets, agent.target_critics.ensemble.members, strict=True),
    ]
    for network, module in pairs:
        torch.testing.assert_close(network, list(module.parameters()))
    torch.testing.assert_close(by_hand.log_alpha, agent.temperatures.log_alpha.detach())


@pytest.mark.parametrize("name", architectures.names())
def test_every_registered_architecture_is_measured(name: str) -> None:
    row = measure(name, repeats=1, updates_per_repeat=1, sizes=SMALL)
    assert row.gflop > 0
    assert row.num_parameters > 0
    assert (row.by_hand is not None) == (name == "multi-head")
    assert name in table([row])
    assert row.json()["ratio_to_floor"]["median"] > 0
