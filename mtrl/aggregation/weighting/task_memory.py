"""What loss weightings keep for each task: means over windows of updates, and moments of Adam.

Functions on the tensors (M,) float64 that a weighting keeps by name. They move those of the tasks (m,) they are given.
Shapes: M tasks, m tasks with samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

Memory = dict[str, Tensor]
"""Tensors (M,) float64 by name."""

WINDOW = ("window_sum", "window_count", "windows", "last_mean", "mean_before")
"""What `add_to_window` keeps."""


def adam_names(name: str) -> tuple[str, ...]:
    """What `adam_step` keeps, all of one shape."""
    return name, f"{name}_mean", f"{name}_square", f"{name}_steps"


def add_to_window(memory: Memory, losses: Tensor, tasks: Tensor, window: int) -> None:
    """Adds losses (m,) to the window of each task; after `window` of them it is complete and the next one begins.

    `last_mean` is that of the last complete window, `mean_before` of the one before it (0 without one), and `windows`
    the number of complete ones.
    """
    memory["window_sum"][tasks] += losses
    memory["window_count"][tasks] += 1
    count = memory["window_count"]
    full = count >= window
    mean = memory["window_sum"] / count.clamp(min=1)
    memory["mean_before"] = torch.where(full, memory["last_mean"], memory["mean_before"])
    memory["last_mean"] = torch.where(full, mean, memory["last_mean"])
    memory["windows"] = memory["windows"] + full
    for name in ("window_sum", "window_count"):
        memory[name] = torch.where(full, 0.0, memory[name])


def adam_step(
    memory: Memory,
    name: str,
    gradient: Tensor,
    tasks: Tensor,
    learning_rate: float,
    decays: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> None:
    """Moves memory[name] (M, ...) by Adam (Kingma and Ba, 2015, algorithm 1), given the gradient (m, ...) of tasks."""
    value, mean, square, steps = adam_names(name)
    memory[steps][tasks] += 1
    memory[mean][tasks] = decays[0] * memory[mean][tasks] + (1 - decays[0]) * gradient
    memory[square][tasks] = decays[1] * memory[square][tasks] + (1 - decays[1]) * gradient.square()
    count = memory[steps][tasks]
    corrected_mean = memory[mean][tasks] / (1 - decays[0] ** count)
    corrected_square = memory[square][tasks] / (1 - decays[1] ** count)
    memory[value][tasks] -= learning_rate * corrected_mean / (corrected_square.sqrt() + epsilon)
