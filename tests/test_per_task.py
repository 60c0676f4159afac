"""Means within each task. Shapes: B batch, M tasks."""

from __future__ import annotations

import torch

from mtrl.per_task import mean_per_task, means_per_task

TASKS = torch.tensor([0, 0, 1, 2])


def test_a_value_that_is_not_finite_stays_with_its_task() -> None:
    means = mean_per_task(torch.tensor([1.0, 3.0, torch.nan, 5.0]), TASKS, 4)
    assert means[[0, 2, 3]].tolist() == [2.0, 5.0, 0.0]
    assert means[1].isnan()


def test_means_keep_the_other_dimensions_and_their_gradient() -> None:
    values = torch.arange(8.0).view(4, 2).requires_grad_()
    means = mean_per_task(values, TASKS, 3)
    assert means.tolist() == [[1.0, 2.0], [4.0, 5.0], [6.0, 7.0]]
    means.sum().backward()
    assert values.grad.tolist() == [[0.5, 0.5], [0.5, 0.5], [1.0, 1.0], [1.0, 1.0]]


def test_means_of_half_precision_count_beyond_256() -> None:
    means = mean_per_task(torch.ones(1000, dtype=torch.bfloat16), torch.zeros(1000, dtype=torch.int64), 1)
    assert means.tolist() == [1.0]


def test_for_logs_a_task_without_samples_has_no_mean() -> None:
    columns = {"value": torch.tensor([1.0, 3.0, 4.0, 5.0]), "matrix": torch.ones(4, 2, 3)}
    means = means_per_task(columns, TASKS, 4)
    assert means["value"][:3].tolist() == [2.0, 4.0, 5.0]
    assert means["matrix"].shape == (4, 2, 3)
    assert all(bool(values[3].isnan().all()) for values in means.values())
    assert means_per_task({}, TASKS, 4) == {}
