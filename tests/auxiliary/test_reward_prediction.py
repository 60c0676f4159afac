"""Reward prediction against numbers by hand. Shapes: B batch, M tasks."""

from __future__ import annotations

import math

import pytest
import torch

from mtrl.auxiliary.reward_prediction import balanced_cross_entropy


@pytest.mark.parametrize("classes", [[0, 1, 1, 1, 2], [0, 0, 0, 0, 0], [0, 0, 2, 2, 2]])
def test_equal_logits_cost_the_logarithm_of_three_whatever_the_counts(classes: list[int]) -> None:
    tasks = torch.tensor([0, 0, 0, 2, 2])
    losses = balanced_cross_entropy(torch.zeros(5, 3), torch.tensor(classes), tasks, 3)
    torch.testing.assert_close(losses, torch.tensor([math.log(3), 0.0, math.log(3)]))


def test_a_rare_class_counts_as_much_as_a_frequent_one() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0]] * 3 + [[0.0, 0.0, math.log(2)]])
    losses = balanced_cross_entropy(logits, torch.tensor([1, 1, 1, 2]), torch.zeros(4, dtype=torch.int64), 1)
    # ln 3 for the three zeros, ln 4 - ln 2 for the positive one, a half each
    torch.testing.assert_close(losses, torch.tensor([(math.log(3) + math.log(2)) / 2]))
