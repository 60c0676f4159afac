"""Multiple-gradient descent, against numbers worked by hand and torchjd."""

from __future__ import annotations

import pytest
import torch
import torchjd.aggregation

from mtrl.aggregation.optimization.mgda import MGDA
from tests.aggregation.gradients import CONFLICT, diagonal, gramian, make, random_jacobian


def test_orthogonal_gradients_are_weighted_by_their_inverse_squared_norms() -> None:
    assert make(MGDA, 2).weights(diagonal(1, 4)).tolist() == pytest.approx([0.8, 0.2])


def test_of_gradients_in_conflict_it_takes_the_shortest_combination() -> None:
    # (1, 0) + t (-2, 1): shortest for t = 2/5.
    assert make(MGDA, 2).weights(gramian(CONFLICT)).tolist() == pytest.approx([0.6, 0.4])


def test_a_gradient_that_is_shorter_than_its_part_of_the_others_is_alone() -> None:
    jacobian = torch.tensor([[1.0, 0.0], [3.0, 1.0]], dtype=torch.float64)
    assert make(MGDA, 2).weights(gramian(jacobian)).tolist() == pytest.approx([1, 0])


@pytest.mark.parametrize("num_tasks", [2, 5, 20])
def test_it_is_what_torchjd_approaches(num_tasks: int) -> None:
    oracle = torchjd.aggregation.MGDAWeighting(epsilon=1e-7, max_iters=20_000 if num_tasks == 2 else 3000)
    products = gramian(random_jacobian(num_tasks, 3 * num_tasks, seed=1))
    found, expected = make(MGDA, num_tasks).weights(products), oracle(products)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.02)
    assert found @ products @ found <= (1 + 1e-9) * expected @ products @ expected
