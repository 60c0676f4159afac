"""PaCo: a task's parameters are combinations of shared sets. Shapes: M tasks, K parameter sets."""

from __future__ import annotations

import torch

from mtrl.networks.experts.paco import ComposedLinear, PaCo


def test_a_row_gets_the_layer_that_its_weights_compose() -> None:
    layer = ComposedLinear(3, 4, 2, bound=1.0, bias_bound=1.0)
    generator = torch.Generator().manual_seed(1)
    inputs, weights = torch.randn(5, 4, generator=generator), torch.randn(5, 3, generator=generator)
    for row, found in enumerate(layer(inputs, weights)):
        composed = torch.einsum("k,kio->io", weights[row], layer.weight)
        torch.testing.assert_close(found, inputs[row] @ composed + weights[row] @ layer.bias)


def test_tasks_of_equal_composition_are_one_network_and_a_single_set_is_a_perceptron() -> None:
    network = PaCo(3, 2, 2, PaCo.Config(width=8, depth=2, num_sets=2))
    features = torch.randn(1, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        network.composition.copy_(torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    first, second = (network(features, torch.tensor([task])).values for task in (0, 1))
    assert torch.equal(first, second)
    hidden = features
    for layer in network.layers:
        hidden = (hidden @ layer.weight[1] + layer.bias[1]).relu()
    torch.testing.assert_close(first, hidden @ network.head.weight[1] + network.head.bias[1])


def test_compositions_start_with_length_one() -> None:
    composition = PaCo(3, 2, 6, PaCo.Config(width=4)).composition
    torch.testing.assert_close(composition.norm(dim=-1), torch.ones(6))
