"""Gradient surgery on the Gramian, against numbers worked by hand and torchjd. Shapes: M tasks."""

from __future__ import annotations

import pytest
import torch
import torchjd.aggregation as torchjd_aggregation
from torch import Tensor

from mtrl.aggregation.projection.pcgrad import PCGrad
from mtrl.seeding import torch_stream


def pcgrad(num_tasks: int, seed: int = 1) -> PCGrad:
    return PCGrad(num_tasks, PCGrad.Config(), torch_stream(seed, "aggregator"))


def random_gramian(num_tasks: int, generator: torch.Generator) -> Tensor:
    jacobian = torch.randn(num_tasks, 6, generator=generator)
    return (jacobian @ jacobian.T).double()


def test_pcgrad_leaves_orthogonal_gradients_alone() -> None:
    assert pcgrad(3).weights(torch.diag(torch.tensor([1.0, 4.0, 9.0]))).tolist() == pytest.approx([1 / 3] * 3)


def test_pcgrad_leaves_gradients_that_agree_alone() -> None:
    jacobian = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 0.5]], dtype=torch.float64)
    assert pcgrad(3).weights(jacobian @ jacobian.T).tolist() == pytest.approx([1 / 3] * 3)


def test_a_conflict_of_two_tasks_is_solved_as_by_hand() -> None:
    # g1 = (1, 0), g2 = (-1, 1): inner product -1. g1 loses -1/2 of g2, g2 loses -1 of g1:
    # g1 + g2 / 2 = (1/2, 1/2), g2 + g1 = (0, 1); their mean (1/4, 3/4) is g1 + 3/4 g2.
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    weights = pcgrad(2).weights(jacobian @ jacobian.T)
    assert weights.tolist() == pytest.approx([1.0, 0.75])
    assert (weights @ jacobian).tolist() == pytest.approx([0.25, 0.75])


def test_with_two_tasks_pcgrad_is_half_of_torchjd() -> None:
    # The paper and torchjd sum over tasks; here they are averaged.
    generator = torch_stream(1, "gramians")
    for _ in range(50):
        gramian = random_gramian(2, generator)
        expected = torchjd_aggregation.PCGradWeighting()(gramian) / 2
        torch.testing.assert_close(pcgrad(2).weights(gramian), expected, rtol=1e-4, atol=1e-5)


def test_over_all_orders_pcgrad_agrees_with_torchjd_on_average() -> None:
    generator = torch_stream(2, "gramians")
    for _ in range(3):
        gramian = random_gramian(4, generator)
        ours, oracle = pcgrad(4), torchjd_aggregation.PCGradWeighting()
        with torch.random.fork_rng(devices=[]):  # torchjd draws its orders from the default generator
            torch.default_generator.manual_seed(1)
            theirs = torch.stack([oracle(gramian) for _ in range(400)])
        found = torch.stack([ours.weights(gramian) for _ in range(400)])
        # Four standard errors of the difference of two means.
        margin = 4 * (found.var(0) / 400 + theirs.var(0) / 16 / 400).sqrt() + 1e-4
        assert ((found.mean(0) - theirs.mean(0) / 4).abs() <= margin).all()


def test_the_order_of_projections_comes_from_the_instances_own_stream() -> None:
    gramian = random_gramian(5, torch_stream(3, "gramians"))
    first, again, other = (
        torch.stack([aggregator.weights(gramian) for _ in range(5)])
        for aggregator in (pcgrad(5), pcgrad(5), pcgrad(5, seed=2))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
