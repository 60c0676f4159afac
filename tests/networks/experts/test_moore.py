"""MOORE: experts are orthogonal at every observation. Shapes: B batch, K experts, d width."""

from __future__ import annotations

import torch

from mtrl.networks.experts.moore import MOORE, orthonormalized


def test_gram_schmidt_by_hand() -> None:
    found = orthonormalized(torch.tensor([[[3.0, 0.0, 4.0], [5.0, 2.0, 0.0]]]))
    # (3, 0, 4) / 5; then (5, 2, 0) - 3 (3/5, 0, 4/5) = (16/5, 2, -12/5), of length sqrt(20).
    expected = torch.tensor([[[0.6, 0.0, 0.8], [3.2 / 20**0.5, 2 / 20**0.5, -2.4 / 20**0.5]]])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_experts_are_orthonormal_at_every_observation_of_any_size() -> None:
    network = MOORE(39, 8, 10, MOORE.Config(width=50, num_experts=4))
    features = torch.randn(20, 39, generator=torch.Generator().manual_seed(1))
    for scale in (1e-3, 1.0, 1e3):
        basis = orthonormalized(network.experts(scale * features))
        products = torch.bmm(basis, basis.transpose(1, 2))
        torch.testing.assert_close(products, torch.eye(4).expand(20, 4, 4), rtol=0, atol=1e-4)


def test_experts_that_agree_give_finite_gradients() -> None:
    vectors = torch.ones(2, 3, 5).requires_grad_()
    orthonormalized(vectors).square().sum().backward()
    assert bool(torch.isfinite(vectors.grad).all())


def test_a_task_reads_its_own_mixture_through_tanh() -> None:
    network = MOORE(2, 1, 2, MOORE.Config(width=2, depth=1, num_experts=2))
    with torch.no_grad():
        network.experts.first.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        network.weights.copy_(torch.tensor([[1.0, 0.0], [0.5, 2.0]]))
        network.heads.heads.weight.copy_(torch.tensor([[1.0, 10.0], [1.0, 10.0]]))
        network.heads.heads.bias.zero_()
    # Experts (3, 0) and (3, 4) become the axes. Task 0: (1, 0). Task 1: (0.5, 2).
    features = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    expected = torch.tensor([[1.0, 0.0], [0.5, 2.0]]).tanh() @ torch.tensor([[1.0], [10.0]])
    found = network(features, torch.tensor([0, 1])).values
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
