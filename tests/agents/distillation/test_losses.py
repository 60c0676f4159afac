"""Loss terms of distillation against numbers worked out by hand."""

from __future__ import annotations

import math

import torch

from agents.distillation.losses import feature_error, imitation_loss, mode_error, tempered
from mtrl.policies.distributions import DiagonalGaussian, MaskedCategorical, SquashedGaussian


def gaussian(mean: float, log_std: float = 0.0) -> SquashedGaussian:
    return SquashedGaussian(torch.tensor([[mean]]), torch.tensor([[log_std]]))


def taught(teacher: SquashedGaussian | MaskedCategorical) -> dict[str, torch.Tensor]:
    return {**vars(teacher), "mode": teacher.mode()}


def test_the_divergence_of_gaussians_one_apart_is_a_half_and_of_equal_ones_nothing() -> None:
    for divergence in ("forward", "reverse"):
        assert imitation_loss(gaussian(0.0), taught(gaussian(1.0)), False, divergence).item() == 0.5
        assert imitation_loss(gaussian(0.3, -1.7), taught(gaussian(0.3, -1.7)), False, divergence).item() == 0.0


def test_forward_and_reverse_divergence_differ_by_which_variance_divides() -> None:
    # Standard deviations 1 of the teacher and 2 of the student: ln 2 + 1/8 - 1/2, the other way -ln 2 + 4/2 - 1/2.
    student, teacher = gaussian(0.0, math.log(2)), taught(gaussian(0.0))
    torch.testing.assert_close(imitation_loss(student, teacher, False), torch.tensor([math.log(2) - 0.375]))
    torch.testing.assert_close(imitation_loss(student, teacher, False, "reverse"), torch.tensor([1.5 - math.log(2)]))


def test_a_temperature_divides_logits_and_multiplies_variances() -> None:
    lowest = torch.finfo(torch.float32).min
    logits = torch.tensor([[0.0, math.log(2), lowest]])
    # 0.5: odds of 1 to 2 become 1 to 4
    probs = tempered(MaskedCategorical(logits), 0.5).log_probs.exp()
    torch.testing.assert_close(probs, torch.tensor([[0.2, 0.8, 0.0]]))
    warm = tempered(gaussian(0.7, 0.0), 4.0)
    torch.testing.assert_close(warm.mean, torch.tensor([[0.7]]))
    torch.testing.assert_close(warm.log_std, torch.tensor([[math.log(2)]]))
    student = MaskedCategorical(torch.zeros_like(logits).masked_fill(logits == lowest, lowest))
    # Uniform over two: 0.2 ln 0.4 + 0.8 ln 1.6
    expected = 0.2 * math.log(0.4) + 0.8 * math.log(1.6)
    loss = imitation_loss(student, taught(MaskedCategorical(logits)), False, temperature=0.5)
    torch.testing.assert_close(loss, torch.tensor([expected]))


def test_modes_are_compared_where_the_heads_differ() -> None:
    assert mode_error(torch.tensor([[1.0, 0.5]]), torch.tensor([[0.0, 0.5]])).item() == 0.5
    student = DiagonalGaussian(torch.tensor([[0.0], [0.0]]), torch.zeros(2, 1))
    teacher = {"mean": torch.tensor([[1.0], [2.0]]), "log_std": torch.zeros(2, 1), "mode": torch.ones(2, 1)}
    by_modes = torch.tensor([False, True])
    assert imitation_loss(student, teacher, by_modes).tolist() == [0.5, 1.0]
    assert imitation_loss(student, teacher, True).tolist() == [1.0, 1.0]


def test_the_features_of_a_student_that_are_one_off_in_four_dimensions_cost_four() -> None:
    features = torch.tensor([[0.3, -1.0, 2.0, 0.5, 0.0]])
    own = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]])  # a teacher of four, beside one of five
    torch.testing.assert_close(feature_error(features + 1, features, own), torch.tensor([4.0]))
