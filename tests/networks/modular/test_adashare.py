"""AdaShare by hand: choices, their gradient, and the two regularisers. Shapes: M tasks, L blocks."""

from __future__ import annotations

import math

import pytest
import torch

from mtrl.networks.modular.adashare import AdaShare


def network_of(probabilities: list[list[float]], **config: float) -> AdaShare:
    network = AdaShare(1, 1, len(probabilities), AdaShare.Config(width=1, num_blocks=len(probabilities[0]), **config))  # type: ignore[arg-type]
    with torch.no_grad():
        network.logits.copy_(torch.tensor(probabilities).logit())
    return network


def test_the_regularizers_are_those_of_the_paper_with_a_bound() -> None:
    network = network_of([[0.5, 0.2], [0.9, 0.2], [0.1, 0.8]], sparsity=1.0, sharing=1.0)
    found = network.regularizers()
    sparsity = [-math.log(0.5) - math.log(0.8), -math.log(0.1) - math.log(0.8), -math.log(0.9) - math.log(0.2)]
    # The lower block counts 1, the upper 1/2; a mean over the two other tasks.
    sharing = [(0.4 + 0.4 + 0.3) / 2, (0.4 + 0.8 + 0.3) / 2, (0.4 + 0.3 + 0.8 + 0.3) / 2]
    assert found["sparsity"].tolist() == pytest.approx(sparsity, rel=1e-5)
    assert found["sharing"].tolist() == pytest.approx(sharing, rel=1e-5)


def test_a_block_is_executed_as_often_as_its_probability_says() -> None:
    network = network_of([[0.25, 0.9]])
    noise = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(1))
    shares = network.choose(network.logits.expand(20_000, 2), noise).mean(0)
    assert shares.tolist() == pytest.approx([0.25, 0.9], abs=0.01)


def test_choices_are_hard_and_their_gradient_is_that_of_the_relaxed_choice() -> None:
    network = network_of([[0.6]], temperature=0.5)
    noise = torch.tensor([[0.3]])
    noisy = math.log(0.6 / 0.4) + math.log(0.3 / 0.7)  # below zero: skipped
    choice = network.choose(network.logits, noise)
    choice.sum().backward()
    relaxed = 1 / (1 + math.exp(-noisy / 0.5))
    assert choice.item() == 0
    assert network.logits.grad.item() == pytest.approx(relaxed * (1 - relaxed) / 0.5)


def test_a_skipped_block_passes_its_input_on_and_without_noise_the_likelier_choice_is_taken() -> None:
    network = network_of([[0.9, 0.1], [0.9, 0.9]])
    with torch.no_grad():
        for layer, weight in ((network.first, 1.0), (network.blocks[0], 2.0), (network.blocks[1], 3.0)):
            layer.weight.fill_(weight)
        network.heads.heads.weight.fill_(1.0)
        network.heads.heads.bias.zero_()
    # 1, then 1 + 2 * 1 = 3, then for task 1 also 3 + 3 * 3 = 12.
    assert network(torch.ones(2, 1), torch.tensor([0, 1])).values.tolist() == [[3.0], [12.0]]
    skip_all = torch.full((2, 2), 1e-9)
    assert network(torch.ones(2, 1), torch.tensor([0, 1]), skip_all).values.tolist() == [[1.0], [1.0]]
