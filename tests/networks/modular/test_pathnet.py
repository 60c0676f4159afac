"""Modular columns: which modules a task's pathway runs through. Shapes: B batch, L layers, N modules."""

from __future__ import annotations

import pytest
import torch

from mtrl.networks.modular.pathnet import PathNet


def test_a_task_reads_the_modules_of_its_pathway_alone() -> None:
    network = PathNet(1, 1, 2, PathNet.Config(width=1, num_layers=2, num_modules=3, num_chosen=2))
    values = {
        "layers.0.weight": [[1.0], [2.0], [4.0]],
        "layers.0.bias": [0.0, 0.0, 0.0],
        "layers.1.weight": [[1.0], [-1.0], [10.0]],
        "layers.1.bias": [1.0, 0.0, 0.0],
        "scores": [[2.0, 1.0, 0.0, 5.0, 6.0, 4.0], [0.0, 1.0, 2.0, 0.0, -1.0, 3.0]],
        "heads.heads.weight": [[1.0], [1.0]],
        "heads.heads.bias": [0.0, 0.0],
    }
    network.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    output = network(torch.ones(2, 1), torch.tensor([0, 1]))
    expected = [[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]], [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]]
    assert output.diagnostics["path"].tolist() == expected
    # Task 0: (1 + 2) / 2, then (2.5 + 0) / 2. Task 1: (2 + 4) / 2, then (4 + 30) / 2.
    assert output.values.tolist() == [[1.25], [17.0]]


def test_noise_changes_the_pathway_as_often_as_the_scores_say() -> None:
    network = PathNet(1, 1, 1, PathNet.Config(num_modules=3, num_chosen=1))
    scores = torch.tensor([0.5, 0.3, 0.2]).log().expand(20_000, 1, 3)
    noise = torch.rand(20_000, 1, 3, generator=torch.Generator().manual_seed(1))
    path = network.choose(scores, noise)
    assert set(path.sum(-1).round().flatten().tolist()) == {1.0}
    assert path.mean((0, 1)).tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.012)


def test_the_gradient_of_the_choice_is_that_of_the_softmax() -> None:
    network = PathNet(1, 1, 1, PathNet.Config(num_modules=3, num_chosen=2, temperature=0.5))
    scores = torch.tensor([[[0.1, 0.4, -0.2]]], requires_grad=True)
    upstream = torch.tensor([1.0, -2.0, 0.5])
    (network.choose(scores, None) * upstream).sum().backward()
    found, scores.grad = scores.grad, None
    (2 * torch.softmax(scores / 0.5, dim=-1) * upstream).sum().backward()
    torch.testing.assert_close(found, scores.grad)


def test_a_pathway_of_more_modules_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="num_chosen 9 is more than num_modules 8"):
        PathNet.Config(num_chosen=9)
