"""Loss terms of distillation. Shapes: B batch, A action, d representation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

Divergence = Literal["forward", "reverse", "modes"]
"""KL(teacher || student), which covers what the teacher does; KL(student || teacher), which seeks one of its modes; or
the squared error of the most likely actions."""


def tempered(distribution: Any, temperature: float) -> Any:
    """The distribution in proportion to p^(1 / temperature): below 1 it is sharper.

    Of logits that is softmax(logits / temperature) (Rusu et al., 2016, arXiv:1511.06295, equation 3); the variance of a
    Gaussian is multiplied by the temperature, of a squashed one before the tanh.
    """
    # Not for 1, where it would cost the last bits.
    return distribution if temperature == 1 else distribution.power_product(1 / temperature, distribution, 0.0)


def imitation_loss(
    student: Any,
    taught: Mapping[str, Tensor],
    by_modes: Tensor | bool,
    divergence: Divergence = "forward",
    temperature: float = 1.0,
) -> Tensor:
    """How far the student's distribution is from the teachers' (B,), with a gradient to the student.

    taught: what `Teachers.columns` gives. by_modes: where (B,), or whether everywhere, the squared error of modes
    counts instead of a KL divergence, since the two distributions are of different classes.
    """
    if by_modes is True:
        return mode_error(taught["mode"], student.mode())
    # Of the student's class: what it has other tensors for is compared by modes.
    teacher = tempered(type(student)(**{name: taught[name] for name in vars(student)}), temperature)
    loss = student.kl_divergence(teacher) if divergence == "reverse" else teacher.kl_divergence(student)
    return loss if by_modes is False else torch.where(by_modes, mode_error(taught["mode"], student.mode()), loss)


def mode_error(teacher_mode: Tensor, student_mode: Tensor) -> Tensor:
    """Squared error (B,) of actions (B, A), mean over their dimensions."""
    return (student_mode - teacher_mode).square().mean(-1)


def feature_error(predicted: Tensor, features: Tensor, own: Tensor) -> Tensor:
    """Squared distance (B,) of representations (B, d) (Parisotto et al., 2016, arXiv:1511.06342, equation 5).

    own (B, d): 1 for the numbers that the sample's teacher has, 0 for padding.
    """
    return ((predicted - features).square() * own).sum(-1)
