"""Soft layer ordering by hand."""

from __future__ import annotations

import torch

from mtrl.networks.modular.soft_ordering import SoftOrdering


def test_a_task_applies_the_shared_layers_in_its_own_order() -> None:
    network = SoftOrdering(1, 1, 2, SoftOrdering.Config(width=1, num_layers=2))
    sure = 50.0  # softmax gives all to one layer
    log3 = float(torch.tensor(3.0).log())
    values = {
        "encoder.weight": [[1.0, 0.0, 1.0]],  # task 1 adds one
        "encoder.bias": [0.0],
        "layers.weight": [[2.0], [1.0]],  # layer 0 doubles, layer 1 adds three
        "layers.bias": [0.0, 3.0],
        # depth, task, layer: task 0 doubles, then adds; task 1 mixes 3/4 and 1/4, then doubles
        "orders": [[[sure, 0.0], [log3, 0.0]], [[0.0, sure], [sure, 0.0]]],
        "heads.heads.weight": [[1.0], [1.0]],
        "heads.heads.bias": [0.0, 0.0],
    }
    network.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    output = network(torch.ones(2, 1), torch.tensor([0, 1]))
    # Task 0: 1 * 2 + 3. Task 1: x = 2, (3/4) 4 + (1/4) 5 = 17/4, doubled.
    torch.testing.assert_close(output.values, torch.tensor([[5.0], [8.5]]))
    expected = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.75, 0.25], [1.0, 0.0]]])
    torch.testing.assert_close(output.diagnostics["order"], expected)


def test_all_orders_are_equal_at_the_start() -> None:
    output = SoftOrdering(2, 1, 3, SoftOrdering.Config(width=4))(torch.ones(3, 2), torch.arange(3))
    torch.testing.assert_close(output.diagnostics["order"], torch.full((3, 3, 3), 1 / 3))
