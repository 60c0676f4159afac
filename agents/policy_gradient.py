"""Loss terms, statistics and what is stored, of policy-gradient agents. Shapes: B batch, M tasks, S gradient steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtrl.encoders import Encoder
from mtrl.per_task import mean_per_task
from mtrl.policies import Policy
from mtrl.types import Metrics, SuiteSpec


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """Negative clipped surrogate objective (B,) (Schulman et al., 2017, equation 7)."""
    ratio = log_ratio.exp()
    # -min(ratio A, clip(ratio, 1 - eps, 1 + eps) A)
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip_range, 1 + clip_range) * advantage)


def value_error(value: Tensor, target: Tensor, old_value: Tensor, clip_range: float | None) -> Tensor:
    """Squared error (B,) of a value; the larger of the plain and the clipped one if there is a clip range."""
    error = (value - target).square()
    if clip_range is None:
        return error
    clipped = old_value + (value - old_value).clamp(-clip_range, clip_range)
    return torch.maximum(error, (clipped - target).square())


def normalized_per_task(values: Tensor, task_ids: Tensor, num_tasks: int) -> Tensor:
    """Values (B,) with mean 0 and standard deviation 1 within each task; 0 for a task with one value."""
    centred = values - mean_per_task(values, task_ids, num_tasks)[task_ids]
    std = mean_per_task(centred.square(), task_ids, num_tasks).sqrt()
    return centred / (std[task_ids] + 1e-8)


def mean_metrics(metrics: Sequence[Metrics], counts: Sequence[Sequence[int]]) -> Metrics:
    """Means over S gradient steps of per-task metrics (M, ...), weighted by the samples that a step had of a task.

    NaN for a task without samples in all of them.
    """
    device = next(iter(metrics[0].values())).device
    weights = torch.tensor(counts, dtype=torch.float32, device=device)  # (S, M)
    means = {}
    for name in metrics[0]:
        values = torch.stack([step[name] for step in metrics])  # (S, M, ...)
        own = weights.view(*weights.shape, *(1 for _ in values.shape[2:]))
        means[name] = torch.where(own > 0, own * values, 0.0).sum(0) / own.sum(0)
    return means


def stored_extras(spec: SuiteSpec, encoder: Encoder, policy: Policy) -> dict[str, tuple[int, ...]]:
    """Shapes per transition of what has to be stored when the agent acts."""
    extras: dict[str, tuple[int, ...]] = {"log_prob": (), "regularization": ()}
    # Values are computed when the rollout is complete, where a few large batches cost less than one per vector step.
    # But where an encoder learns, its features cost more than they do, and are there when the agent acts.
    if any(True for _ in encoder.parameters()):
        extras["value"] = ()
    if policy.head.clips:
        extras["sample"] = tuple(spec.action_space.shape or ())
    if policy.route_size:
        extras["route"] = (policy.route_size,)
    elif policy.noise_size:
        extras["noise"] = (policy.noise_size,)
    return extras
