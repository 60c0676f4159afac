"""An update shared out over ranks: each learns from its own rows of the same batch, and all make the same step.

Inside `learning`, means within a task are over the rows of all ranks (`mtrl.per_task`), and parameter groups average
gradients (`mtrl.optim.parameter_group`). So the losses (M,), and all that aggregators, normalizers and temperatures
make of them, are the same numbers on every rank, and those of one process up to rounding.

Shapes: B batch, M tasks, K ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mtrl.data_parallel.ranks import WORLD, collective
from mtrl.errors import BadInput
from mtrl.types import Batch

_sharing = False


@contextmanager
def learning(shared: bool = True) -> Iterator[None]:
    """Updates inside are shared out, where there are several ranks; with `shared` False, what is inside is not."""
    global _sharing
    before, _sharing = _sharing, shared and WORLD.size > 1
    try:
        yield
    finally:
        _sharing = before


def own_part(batch: Batch) -> Batch:
    """The rows of a batch, sorted by task, that this rank learns from. Raises BadInput for fewer rows than ranks.

    An agent that leaves this out learns the same from whole batches on every rank, which is not faster.
    """
    if not _sharing:
        return batch
    if len(batch.task_ids) < WORLD.size:
        error = BadInput(f"a batch of {len(batch.task_ids)} samples cannot be shared out over {WORLD.size} ranks")
        error.reported = WORLD.rank > 0
        raise error
    return batch.every_kth(WORLD.rank, WORLD.size)


def own_generator(common: torch.Generator) -> torch.Generator:
    """For noise of this rank's rows, of which another may have fewer; `common` moves alike on all ranks."""
    if not _sharing:
        return common
    seed = int(torch.randint(2**62, (), generator=common, device=common.device))
    return torch.Generator(common.device).manual_seed(seed + WORLD.rank)


def totals(*values: Tensor) -> tuple[Tensor, ...]:
    """Sums of each of the values over the ranks; the values themselves outside `learning`. Differentiable."""
    if not _sharing:
        return values
    summed: Tensor = _Total.apply(torch.cat([value.flatten() for value in values]))
    parts = summed.split([value.numel() for value in values])
    return tuple(part.view(value.shape) for part, value in zip(parts, values, strict=True))


class _Total(torch.autograd.Function):
    """A sum over ranks, of which all compute the same loss."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        result = own.clone()
        collective(dist.all_reduce, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # K times this rank's part of the gradient: then the mean over ranks is the gradient, also of what every rank
        # computes alike, such as a penalty on parameters.
        return WORLD.size * gradient


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replaces `.grad` of the parameters by its mean over the ranks, inside `learning`."""
    if not _sharing:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    collective(dist.all_reduce, flat)
    parts = flat.div_(WORLD.size).split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view(own.shape) for part, own in zip(parts, gradients, strict=True)])


def total_of_tasks(values: Tensor, batch: Batch) -> Tensor:
    """Means (M, ...) within each task over the rows of all ranks, from those over this rank's rows."""
    if not _sharing or batch.part == (0, 1):  # a whole batch, of which every rank has all rows
        return values
    fractions = [own / max(1, count) for own, count in zip(batch.own_counts, batch.counts, strict=True)]
    result = values * values.new_tensor(fractions).view(-1, *(1 for _ in values.shape[1:]))
    collective(dist.all_reduce, result)
    return result
