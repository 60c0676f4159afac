"""The measures, taken of a run. Shapes: M tasks, N probes, B batch, P parameters, F features of an input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.func import functional_call

from mtrl.errors import BadInput
from mtrl.optim.parameter_group import ParameterGroup
from mtrl.policies.distributions import DiagonalGaussian, Gaussian
from mtrl.relations.continuation import Continuation
from mtrl.relations.measures import (
    attribution_similarity,
    fisher_similarity,
    gradient_cosines,
    lookahead_affinity,
    representation_similarity,
)
from mtrl.seeding import torch_stream


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """How much data a measure takes."""

    updates: PositiveInt = 8  # updates of the run, continued in memory, whose batches are measured
    probes: Annotated[int, Field(ge=3)] = 256  # observations for rsa, attribution and fisher, of all tasks together
    parameter_group: str | None = None  # parameter group for cosine and tag; None: the agent's first
    lookahead_rate: Annotated[float, Field(gt=0)] = 1e-3  # of the gradient step of tag


def cosine(run: Continuation, settings: MeasureSettings) -> Tensor:
    """Cosines of the tasks' gradients, which are means over the updates.

    Parameters that no two tasks share, such as heads, are left out: they would make all cosines small.
    """
    group = run.group(settings.parameter_group)
    total: Tensor | float = 0.0
    counts = torch.zeros(run.num_tasks)
    for batch in run.updates(settings.updates, group):
        total = total + _flat(group.last_task_gradients())
        counts += torch.tensor(batch.counts)
    run.refuse_missing_tasks(counts)
    gradients = torch.as_tensor(total)
    shared = (gradients != 0).sum(0) > 1
    if not shared.any():
        raise BadInput(f"cosine: no two tasks share a parameter of {group.name!r}; try attribution")
    return gradient_cosines(gradients[:, shared])


def tag(run: Continuation, settings: MeasureSettings) -> Tensor:
    """Lookahead affinity, mean over the updates. Raises BadInput where the step is too long to say anything."""
    group = run.group(settings.parameter_group)
    if not run.agent.group_gauges.get(group.name, False):
        gauged = [name for name, has in run.agent.group_gauges.items() if has]
        raise BadInput(
            f"parameter_group: tag compares losses that are never negative, and those of {group.name!r} are signed; "
            f"choose one of {gauged}"
        )
    found, counts = [], torch.zeros(run.num_tasks)
    for batch in run.updates(settings.updates, group):
        gradients = _flat(group.last_task_gradients())
        found.append(lookahead_affinity(*_gauge(group), gradients, settings.lookahead_rate).double().cpu())
        counts += torch.tensor(batch.counts)
    run.refuse_missing_tasks(counts)
    affinity = torch.stack(found).nanmean(0)
    if int((affinity.diagonal() < 0).sum()) > run.num_tasks / 2:
        raise BadInput(
            f"lookahead_rate: {settings.lookahead_rate:g} is too large; a step on their own gradient makes the losses "
            "of most tasks larger"
        )
    return affinity


def rsa(run: Continuation, settings: MeasureSettings) -> Tensor:
    """Similarity of the policy's representations of the same observations under each task."""
    average, observations = run.averaged_policy(), _probes(run, settings)
    found = []
    with torch.no_grad():
        for task in range(run.num_tasks):
            representation = _policy(average, observations, task).network.representation
            if representation is None:
                name = run.config.architecture.name
                raise BadInput(f"rsa: networks of the architecture {name!r} have no representation; try attribution")
            found.append(representation.float())
    return representation_similarity(torch.stack(found))


def attribution(run: Continuation, settings: MeasureSettings) -> Tensor:
    """Similarity of what the policy's outputs depend on: sum over outputs y of abs(x dy/dx), under each task."""
    average = run.averaged_policy()
    observations = _probes(run, settings).float().requires_grad_()
    found = []
    for task in range(run.num_tasks):
        outputs = _policy(average, observations, task).network.values  # (N, outputs)
        total = torch.zeros_like(observations)
        for column in outputs.unbind(1):
            (gradient,) = torch.autograd.grad(column.sum(), observations, retain_graph=True)
            total += (observations * gradient).detach().abs()
        found.append(total.flatten(1))
    return attribution_similarity(torch.stack(found))


def fisher(run: Continuation, settings: MeasureSettings) -> Tensor:
    """Similarity of the diagonals of the policy's Fisher information, on each task's own observations."""
    average, observations = run.averaged_policy(), _probes(run, settings)
    share = len(observations) // run.num_tasks
    policy = average.policy
    parameters = {name: value.detach().requires_grad_() for name, value in policy.named_parameters()}
    generator = torch_stream(run.config.settings.seed, "fisher", device=run.agent.device)
    diagonals = []
    for task in range(run.num_tasks):
        with torch.no_grad():
            features = average.encoder(observations[task * share : (task + 1) * share])
        task_ids = torch.full((1,), task, device=features.device)
        total = [torch.zeros_like(value) for value in parameters.values()]
        for row in features.split(1):
            distribution: Any = functional_call(policy, parameters, (row, task_ids)).distribution
            if isinstance(distribution, Gaussian):  # before a tanh, which changes no Fisher information
                distribution = DiagonalGaussian(distribution.mean, distribution.log_std)
            action = distribution.sample(policy.head.sample_noise(1, generator)).detach()
            # F = E[(d log pi(a|s) / d theta)^2], actions from the policy
            score = torch.autograd.grad(
                distribution.log_prob(action).sum(), list(parameters.values()), allow_unused=True
            )
            for own, gradient in zip(total, score, strict=True):
                if gradient is not None:
                    own.addcmul_(gradient, gradient)
        # As in the paper, the weights of a unit count as one: their mean.
        diagonals.append(torch.cat([own.mean(-1).flatten() if own.dim() > 1 else own for own in total]) / share)
    return fisher_similarity(torch.stack(diagonals))


MEASURES: Mapping[str, Callable[[Continuation, MeasureSettings], Tensor]] = {
    "cosine": cosine,
    "rsa": rsa,
    "attribution": attribution,
    "tag": tag,
    "fisher": fisher,
}
"""From a run to the affinity of its tasks (M, M)."""


def _probes(run: Continuation, settings: MeasureSettings) -> Tensor:
    """Observations (N, *observation), as many of each task, in task order."""
    share = max(1, settings.probes // run.num_tasks)
    kept: list[list[Tensor]] = [[] for _ in range(run.num_tasks)]
    for batch in run.updates(settings.updates, run.group(None)):
        for own, rows in zip(kept, batch.observation.split(list(batch.counts)), strict=True):
            own.append(rows)
    found = [torch.cat(own) for own in kept]
    run.refuse_missing_tasks(torch.tensor([len(own) for own in found]))
    return torch.cat([own[torch.linspace(0, len(own) - 1, share).long().to(own.device)] for own in found])


def _policy(average: Any, observations: Tensor, task: int) -> Any:
    """The policy's output for observations under a task."""
    task_ids = torch.full((len(observations),), task, device=observations.device)
    return average.policy(average.encoder(observations), task_ids)


def _flat(gradients: Mapping[str, Tensor]) -> Tensor:
    """Task gradients (M, *shape) by parameter as (M, P)."""
    return torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)


def _gauge(group: ParameterGroup) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The gauge (M,) of the last batch as a function of flat parameters (P,), and the parameters of now."""
    loss_fn, batch = group.last_losses()
    sizes = [value.numel() for value in group.parameters.values()]

    @torch.no_grad()
    def losses(flat: Tensor) -> Tensor:
        parts = flat.split(sizes)
        own = {n: part.view_as(v) for (n, v), part in zip(group.parameters.items(), parts, strict=True)}
        gauge = loss_fn(own, batch).gauge
        assert gauge is not None
        return gauge

    return losses, torch.cat([value.detach().flatten() for value in group.parameters.values()])
