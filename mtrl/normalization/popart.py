"""PopArt, per task (van Hasselt et al., 2016, arXiv:1602.07714; multi-task: Hessel et al., 2019, arXiv:1809.04474).

The papers rescale the last linear layer of the value network. Here a trained affine stands behind the network,

    prediction in reward units = sigma_i (a_i f(x, i) + c_i) + mu_i,

and a change of mu and sigma rescales a and c alone, so that it works behind every architecture.

The first batch of a task whose returns differ gives mu and nu; from then on they move by the rate b. From 0 and 1, as
in the papers, they would need thousands of updates to get to the size of the returns. Until then the loss of the values
is far larger than that of the policy, which may share their encoder.

Adam's moments of a and c stay as they are when these are rescaled. The gradients by a and c are in normalised units,
which a change from sigma to sigma' stretches by sigma / sigma'. With rate b one update changes sigma by a factor of the
order of 1 +- b, and Adam forgets (1 - 0.999 per step) faster than the statistics move (b = 3e-4). The one large change,
away from the initial sigma of 1, comes before a task's first step, or before its first with returns that differ.

Shapes: K networks, B batch, M tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mtrl.normalization.normalizer import ReturnNormalizer, ValueOutput, normalizers
from mtrl.per_task import mean_per_task, tasks_present

MIN_VARIANCE = 1e-8  # of returns, in squared reward units
ROUNDING = 1e-12  # of a variance, relative to the mean square; float64 has 2e-16, and batches are summed


class TaskAffine(ValueOutput):
    """a_i f + c_i, for each of K networks and each task."""

    def __init__(self, num_networks: int, num_tasks: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_networks, num_tasks))
        self.shift = nn.Parameter(torch.zeros(num_networks, num_tasks))

    def forward(self, values: Tensor, task_ids: Tensor) -> Tensor:
        return self.scale[:, task_ids].unsqueeze(-1) * values + self.shift[:, task_ids].unsqueeze(-1)

    @torch.no_grad()
    def rescale(self, factor: Tensor, offset: Tensor) -> None:
        """Makes the output `factor` (M,) times what it was, plus `offset` (M,)."""
        self.scale.copy_(self.scale * factor)
        self.shift.copy_(self.shift * factor + offset)


@normalizers.register("popart")
class PopArt(ReturnNormalizer):
    """Returns to mean 0 and standard deviation 1 per task, with predictions in reward units preserved."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        rate: Annotated[float, Field(gt=0, le=1)] = 3e-4  # b of the moving averages, per batch

    mean: Tensor  # mu (M,) float64
    mean_square: Tensor  # nu (M,) float64
    started: Tensor  # whether a batch gave mu and nu, (M,) bool

    def __init__(self, num_tasks: int, config: Config, discount: float = 0.99):
        super().__init__(num_tasks, config, discount)
        self.num_tasks = num_tasks
        self.rate = config.rate
        self.register_buffer("mean", torch.zeros(num_tasks, dtype=torch.float64))
        self.register_buffer("mean_square", torch.ones(num_tasks, dtype=torch.float64))
        self.register_buffer("started", torch.zeros(num_tasks, dtype=torch.bool))

    def make_output(self, num_networks: int) -> TaskAffine:
        return TaskAffine(num_networks, self.num_tasks)

    @property
    def std(self) -> Tensor:
        """sigma (M,) float64."""
        return (self.mean_square - self.mean.square()).clamp(MIN_VARIANCE, 1e12).sqrt()

    def denormalize(self, values: Tensor, task_ids: Tensor) -> Tensor:
        return (self.std[task_ids] * values + self.mean[task_ids]).to(values.dtype)

    def normalize(self, returns: Tensor, task_ids: Tensor) -> Tensor:
        return ((returns - self.mean[task_ids]) / self.std[task_ids]).to(returns.dtype)

    def scale(self, task_ids: Tensor) -> Tensor:
        return self.std[task_ids].float()

    @torch.no_grad()
    def update_statistics(self, returns: Tensor, task_ids: Tensor, outputs: Sequence[ValueOutput]) -> None:
        values = returns.double()
        means, squares = (mean_per_task(rows, task_ids, self.num_tasks) for rows in (values, values.square()))
        seen = tasks_present(task_ids, self.num_tasks) & torch.isfinite(squares).all()
        old_mean, old_std = self.mean.clone(), self.std
        differ = squares - means.square() > MIN_VARIANCE + ROUNDING * squares
        starts = seen & ~self.started & differ
        rate = torch.where(starts, 1.0, self.rate).double()
        self.started |= starts
        self.mean.copy_(torch.where(seen, self.mean.lerp(means, rate), self.mean))
        self.mean_square.copy_(torch.where(seen, self.mean_square.lerp(squares, rate), self.mean_square))
        std = self.std
        for output in outputs:
            assert isinstance(output, TaskAffine)
            output.rescale(old_std / std, (old_mean - self.mean) / std)
