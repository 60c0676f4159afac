"""Gradient vaccine, against numbers worked by hand, PCGrad and torchjd."""

from __future__ import annotations

import pytest
import torch
import torchjd.aggregation

from mtrl.aggregation import PresentTasks
from mtrl.aggregation.projection.gradvac import GradVac
from mtrl.aggregation.projection.pcgrad import PCGrad
from tests.aggregation.gradients import diagonal, gramian, make, random_jacobian


def tasks(*indices: int) -> PresentTasks:
    return PresentTasks(torch.tensor(indices), None)


def test_without_its_moving_average_it_is_pcgrad() -> None:
    vaccine, pcgrad = make(GradVac, 6, rate=0.0), make(PCGrad, 6)
    for seed in range(5):
        products = gramian(random_jacobian(6, 10, seed))
        torch.testing.assert_close(vaccine.task_weights(products, tasks(*range(6))), pcgrad.weights(products))


def test_gradients_are_turned_towards_each_other_until_the_cosine_is_the_target() -> None:
    # Of (1, 0) and (0, 1) with target 0.6: (1, 0.75) has the cosine 0.75 / 1.25 with the second.
    aggregator = make(GradVac, 2)
    aggregator.targets.fill_(0.6)
    weights = aggregator.task_weights(diagonal(1, 1), tasks(0, 1))
    assert weights.tolist() == pytest.approx([0.875, 0.875])
    assert aggregator.targets[0, 1] == aggregator.targets[1, 0] == pytest.approx(0.99 * 0.6)


def test_with_two_tasks_it_is_half_of_torchjd() -> None:
    ours, oracle = make(GradVac, 2, rate=0.1), torchjd.aggregation.GradVac(beta=0.1).gramian_weighting
    for seed in range(20):
        products = gramian(random_jacobian(2, 5, seed, mean=0.5))
        torch.testing.assert_close(ours.task_weights(products, tasks(0, 1)), oracle(products) / 2, rtol=1e-5, atol=1e-6)


def test_pairs_without_samples_keep_their_target() -> None:
    aggregator = make(GradVac, 3)
    aggregator.task_weights(gramian(random_jacobian(3, 5, seed=1, mean=1.0)), tasks(0, 1, 2))
    before = aggregator.targets.clone()
    aggregator.task_weights(gramian(random_jacobian(2, 5, seed=2, mean=1.0)), tasks(0, 2))
    changed = (aggregator.targets != before).nonzero().tolist()
    assert changed == [[0, 2], [2, 0]]


def test_gradients_that_always_agree_stay_finite() -> None:
    aggregator = make(GradVac, 2, rate=1.0)
    same = gramian(torch.ones(2, 3, dtype=torch.float64))
    for _ in range(3):
        aggregator.task_weights(same, tasks(0, 1))
    weights = aggregator.task_weights(diagonal(1, 1), tasks(0, 1))
    assert weights.isfinite().all()
    assert weights.amax() < 20
