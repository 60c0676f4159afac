"""Rows in equal shares, and what is quicker for them. Shapes: B rows, M tasks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from mtrl.aggregation import mean_per_task
from mtrl.equal_shares import equal_shares, in_equal_shares
from mtrl.networks.layers import TaskHeads, _identity, _one_hot_of_equal_shares, one_hot


@pytest.mark.parametrize(
    ("task_ids", "expected"),
    [
        ([0, 0, 1, 1, 2, 2], True),
        ([0, 1, 2], True),
        ([0, 1, 1, 2, 2, 2], False),
        ([0, 0, 2, 2, 1, 1], False),
        ([0, 1, 2, 0], False),
        ([0, 0, 0], False),
        ([], False),
    ],
)
def test_equal_shares_are_told_from_others(task_ids: list[int], expected: bool) -> None:
    assert in_equal_shares(torch.tensor(task_ids, dtype=torch.int64), 3) == expected


def test_equal_shares_are_not_looked_for_under_vmap() -> None:
    found = []
    torch.func.vmap(lambda rows: found.append(in_equal_shares(rows, 2)) or rows)(torch.tensor([[0, 1], [0, 1]]))
    assert found == [False]


def test_what_is_kept_can_be_made_inside_a_transform() -> None:
    equal_shares.cache_clear()
    _one_hot_of_equal_shares.cache_clear()
    _identity.cache_clear()

    def function(values: Tensor) -> Tensor:
        ids = equal_shares(6, 2)
        return (values * one_hot(ids, 2)).sum() + (values * one_hot(ids.clone(), 2)).sum()

    torch.func.grad(function)(torch.ones(6, 2))
    for kept in (equal_shares(6, 2), _one_hot_of_equal_shares(6, 2), _identity(2, torch.device("cpu"))):
        assert not is_functorch_wrapped_tensor(kept)
    assert in_equal_shares(equal_shares(6, 2), 2)


def test_means_of_equal_shares_are_those_of_others() -> None:
    generator = torch.Generator().manual_seed(1)
    tasks = torch.arange(3).repeat_interleave(4)
    order = torch.randperm(12, generator=generator)
    for shape in ((12,), (12, 2)):
        values = torch.randn(shape, generator=generator, requires_grad=True)
        sorted_, shuffled = mean_per_task(values, tasks, 3), mean_per_task(values[order], tasks[order], 3)
        torch.testing.assert_close(sorted_, shuffled)
        gradients = [torch.autograd.grad(means.square().sum(), values)[0] for means in (sorted_, shuffled)]
        torch.testing.assert_close(*gradients)


def test_means_of_whole_numbers_do_not_depend_on_the_order_of_rows() -> None:
    for tasks in ([0, 0, 1, 1], [1, 1, 0, 0]):
        assert sorted(mean_per_task(torch.tensor([1, 2, 3, 4]), torch.tensor(tasks), 2).tolist()) == [1.5, 3.5]


def test_no_rows_have_heads_and_means_too() -> None:
    # The values after a rollout whose every slot ends with a terminated step.
    nothing = torch.zeros(0, dtype=torch.int64)
    assert TaskHeads(4, 2, 3)(torch.zeros(0, 4), nothing).shape == (0, 2)
    assert mean_per_task(torch.zeros(0), nothing, 3).tolist() == [0, 0, 0]


def test_a_nan_stays_with_its_task() -> None:
    means = mean_per_task(torch.tensor([1.0, torch.nan, 2.0, 4.0]), torch.tensor([0, 0, 1, 1]), 2)
    assert means[0].isnan()
    assert means[1] == 3
