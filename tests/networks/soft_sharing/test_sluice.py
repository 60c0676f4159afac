"""Sluice networks by hand. Shapes: M tasks."""

from __future__ import annotations

import pytest
import torch

from mtrl.networks.soft_sharing.sluice import Sluice


def test_subspaces_are_mixed_and_the_head_reads_all_layers() -> None:
    network = Sluice(1, 1, 2, Sluice.Config(subspace_width=1, depth=2, orthogonality=2.0))
    alpha = torch.eye(4)
    alpha[0, 3] = 1.0  # the first subspace of task 0 also reads the second one of task 1
    values = {
        "first.weight": [[1.0], [2.0], [3.0], [4.0]],
        "first.bias": [0.0] * 4,
        "layers.0.weight": [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 1.0]]],
        "layers.0.bias": [[[0.0, 0.0]], [[0.0, 0.0]]],
        "alphas.0": alpha,
        "alphas.1": torch.eye(4),
        "beta": [[1.0, 10.0], [2.0, 0.0]],
        "heads.heads.weight": [[1.0, 100.0], [1.0, 100.0]],
        "heads.heads.bias": [0.0, 0.0],
    }
    network.load_state_dict({name: torch.as_tensor(value) for name, value in values.items()})
    # x = 1: subspaces (1, 2 | 3, 4), mixed (5, 2 | 3, 4). Second layer: task 0 (5, 2), task 1 (4, 3 + 4).
    # Task 0 reads 1 (5, 2) + 10 (5, 2) = (55, 22); task 1 reads 2 (3, 4) = (6, 8).
    output = network(torch.ones(2, 1), torch.tensor([0, 1]))
    assert output.values.tolist() == [[2255.0], [806.0]]
    # Weights into the two subspaces: first layer 1 and 2, 3 and 4; second (1, 0) and (0, 1), (0, 1) and (1, 1).
    assert output.losses["orthogonality"].tolist() == pytest.approx([2 * (4 + 0), 2 * (144 + 1)])


def test_one_gradient_step_on_the_penalty_makes_the_subspaces_more_orthogonal() -> None:
    network = Sluice(3, 1, 2, Sluice.Config(subspace_width=4))
    before = network.overlap()
    before.sum().backward()
    with torch.no_grad():
        for weight in [network.first.weight, *(layer.weight for layer in network.layers)]:
            weight -= 0.1 * weight.grad
    assert bool((network.overlap() < before).all())
