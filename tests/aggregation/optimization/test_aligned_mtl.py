"""Aligned-MTL, against numbers worked by hand and torchjd."""

from __future__ import annotations

import pytest
import torch
import torchjd.aggregation

from mtrl.aggregation.optimization.aligned_mtl import AlignedMTL
from tests.aggregation.gradients import diagonal, gramian, make, random_jacobian


def test_orthogonal_gradients_are_made_as_long_as_the_shortest() -> None:
    assert make(AlignedMTL, 2).weights(diagonal(1, 4)).tolist() == pytest.approx([0.5, 0.25])


@pytest.mark.parametrize("num_tasks", [2, 5, 20])
def test_the_weights_are_those_of_torchjd(num_tasks: int) -> None:
    oracle = torchjd.aggregation.AlignedMTLWeighting()
    for seed in range(5):
        products = gramian(random_jacobian(num_tasks, 3 * num_tasks, seed))
        torch.testing.assert_close(make(AlignedMTL, num_tasks).weights(products), oracle(products))
