"""Multi-gate mixture of experts by its equation. Shapes: K experts."""

from __future__ import annotations

import torch

from mtrl.networks.experts.mmoe import MultiGateMixture
from mtrl.networks.layers import Experts


def test_experts_are_perceptrons_side_by_side() -> None:
    experts = Experts(3, [2, 4, 5])
    features = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    found = experts(features)
    first, layer = experts.first, experts.layers[0]
    for k in range(3):
        units = slice(4 * k, 4 * k + 4)
        hidden = (features @ first.weight[units].T + first.bias[units]).relu()
        torch.testing.assert_close(found[:, k], hidden @ layer.weight[k] + layer.bias[k, 0])


def test_the_gate_of_the_rows_own_task_mixes_the_experts() -> None:
    network = MultiGateMixture(1, 1, 2, MultiGateMixture.Config(num_experts=2, width=1, depth=1))
    log3 = torch.tensor(3.0).log()
    with torch.no_grad():
        network.experts.first.weight.copy_(torch.tensor([[1.0], [4.0]]))
        network.gates.heads.weight.copy_(torch.stack([log3, log3 * 0, log3 * 0, log3])[:, None])
        network.gates.heads.bias.zero_()
        network.towers.heads.weight.copy_(torch.tensor([[1.0], [2.0]]))
        network.towers.heads.bias.copy_(torch.tensor([0.0, 1.0]))
    # x = 1: experts (1, 4). Task 0: gate (3/4, 1/4), 7/4. Task 1: gate (1/4, 3/4), 13/4, tower 2 x + 1.
    output = network(torch.ones(2, 1), torch.tensor([0, 1]))
    torch.testing.assert_close(output.values, torch.tensor([[1.75], [7.5]]))
    torch.testing.assert_close(output.diagnostics["gates"], torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
