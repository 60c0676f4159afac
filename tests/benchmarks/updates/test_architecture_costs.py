"""The benchmark of architectures: its floor consists of the matrix products that an update makes."""

from __future__ import annotations

import pytest
import torch

from benchmarks.updates.architectures import measure, table
from benchmarks.updates.matmul_floor import MatmulFloor, recorded_products
from benchmarks.updates.sac import UpdateSizes
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


@pytest.mark.parametrize("name", architectures.names())
def test_every_registered_architecture_is_measured(name: str) -> None:
    row = measure(name, repeats=1, updates_per_repeat=1, sizes=SMALL)
    assert row.gflop > 0
    assert row.num_parameters > 0
    assert name in table([row])
    assert row.json()["ratio_to_floor"]["median"] > 0
