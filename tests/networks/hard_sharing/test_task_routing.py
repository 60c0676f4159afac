"""Task routing: which units a task uses. Shapes: M tasks."""

from __future__ import annotations

import pytest
import torch

from mtrl.networks.hard_sharing.task_routing import TaskRouting


@pytest.mark.parametrize(("sigma", "num_on"), [(0.0, 10), (0.3, 7), (0.5, 5), (0.99, 1)])
def test_sigma_is_the_share_of_units_switched_off(sigma: float, num_on: int) -> None:
    masks = TaskRouting(4, 2, 3, TaskRouting.Config(width=10, sigma=sigma)).masks
    assert masks.sum(-1).tolist() == [[num_on] * 3] * 3


def test_tasks_and_layers_have_masks_of_their_own() -> None:
    masks = TaskRouting(4, 2, 3, TaskRouting.Config(width=40)).masks.flatten(0, 1)
    assert len({tuple(mask.tolist()) for mask in masks}) == 9


def test_a_task_neither_reads_nor_changes_the_units_that_are_off_for_it() -> None:
    network = TaskRouting(3, 1, 2, TaskRouting.Config(width=6, depth=1))
    network.masks.copy_(torch.tensor([[[1.0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0]]]))
    features = torch.ones(1, 3)
    network(features, torch.tensor([1])).values.sum().backward()
    off = network.masks[0, 1] == 0
    assert network.layers[0].weight.grad[off].abs().sum() == 0
    before = [network(features, torch.tensor([task])).values for task in (0, 1)]
    with torch.no_grad():
        network.layers[0].bias[off & (network.masks[0, 0] == 1)] += 5
    assert torch.equal(network(features, torch.tensor([1])).values, before[1])
    assert not torch.equal(network(features, torch.tensor([0])).values, before[0])


def test_masks_are_part_of_the_state() -> None:
    assert "masks" in TaskRouting(3, 1, 2, TaskRouting.Config(width=4)).state_dict()
