"""The contract of a gradient aggregator, as a function that a plug-in's own tests call.

Shapes: B batch, M tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mtrl.aggregation import GradientAggregator, Parameters, TaskLosses
from mtrl.networks import Output
from mtrl.per_task import mean_per_task
from mtrl.seeding import torch_stream
from mtrl.testing.architecture import check_config
from mtrl.testing.attributes import differences, leaves
from mtrl.testing.generators import global_generators_untouched
from mtrl.types import Batch

COUNTS = ((4,), (5, 5, 5), (1, 6, 2), (0, 7, 0))
"""Rows per task that are tried: one task, equal and unequal shares, tasks without rows."""
SCALES = ((1e-6, 1e-6, 1e-6), (1e6, 1e6, 1e6), (1e-6, 1.0, 1e6), (1.0, 0.0, 1.0), (0.0, 0.0, 0.0))
"""Factors of the tasks' losses that are tried, among them tasks whose loss and gradient are 0."""


def check_aggregator(cls: type[GradientAggregator], config: Any = None) -> None:
    """Raises AssertionError where an aggregator breaks the contract of `GradientAggregator`.

    `config` is an instance of its Config (default: its defaults).
    """
    who = f"{cls.__module__}.{cls.__qualname__}"
    check_config(cls)
    settings = cls.Config() if config is None else config
    with global_generators_untouched(who):
        for counts in COUNTS:
            make = _Maker(cls, settings, len(counts))
            _check_backward(f"{who} ({len(counts)} tasks with {counts} rows)", make, counts)
            _check_state(f"{who} ({len(counts)} tasks with {counts} rows)", make, counts)
        _check_shares(who, _Maker(cls, settings, 3))
        for scales in SCALES:
            _check_scales(f"{who} (losses times {scales})", _Maker(cls, settings, len(scales)), scales)


class LinearProblem:
    """Task losses c (x w - y_i)^2 + (b - y_i)^2 of a weight w and a bias b; c is a bystander the loss only reads.

    scales: factors of the losses, 1 each by default.
    """

    def __init__(self, counts: Sequence[int], seed: int = 1, scales: Sequence[float] = ()):
        generator = torch_stream(seed, "linear problem")
        self.num_tasks = len(counts)
        self.scales = torch.tensor(scales) if scales else torch.ones(len(counts))
        tasks = torch.arange(self.num_tasks).repeat_interleave(torch.tensor(counts))
        rows = len(tasks)
        zeros = torch.zeros(rows)
        features = torch.randn(rows, 3, generator=generator)
        self.parameters: dict[str, Tensor] = {
            "weight": torch.randn(3, 2, generator=generator).requires_grad_(),
            "bias": torch.randn(2, generator=generator).requires_grad_(),
        }
        self.bystander = torch.ones(2, requires_grad=True)
        self.batch = Batch(
            task_ids=tasks,
            observation=features,
            action=zeros,
            reward=torch.randn(rows, generator=generator) + 2 * tasks,
            terminated=zeros.bool(),
            truncated=zeros.bool(),
            next_observation=features,
            shares=torch.tensor(counts) / rows,
            counts=tuple(counts),
        )

    def loss(self, parameters: Parameters, batch: Batch) -> TaskLosses:
        """Per-task losses (M,); the metrics are the samples' rewards."""
        wanted = batch.reward.unsqueeze(-1)
        values = batch.observation @ parameters["weight"]
        errors = (values - wanted).square() * self.bystander
        errors = errors + (parameters["bias"] - wanted).square()
        losses = self.scales * mean_per_task(errors.mean(-1), batch.task_ids, self.num_tasks)
        output = Output(values, representation=values)
        return TaskLosses(losses, {"reward": batch.reward.detach()}, outputs=(output,), gauge=losses)


class _Maker:
    """Makes instances whose generators begin alike."""

    def __init__(self, cls: type[GradientAggregator], config: Any, num_tasks: int):
        self.cls = cls
        self.config = config
        self.num_tasks = num_tasks

    def __call__(self, seed: int = 1) -> GradientAggregator:
        return self.cls(self.num_tasks, self.config, torch_stream(seed, "aggregator"))


def _check_backward(who: str, make: _Maker, counts: Sequence[int]) -> None:
    problem = LinearProblem(counts)
    before = {name: parameter.detach().clone() for name, parameter in problem.parameters.items()}
    expected = problem.loss(problem.parameters, problem.batch)
    aggregator = make()
    result = aggregator.backward(problem.loss, problem.batch, problem.parameters)
    assert tuple(result.losses.shape) == (len(counts),), (
        f"{who}: backward returns losses {tuple(result.losses.shape)}, not one per task"
    )
    assert not result.losses.requires_grad, f"{who}: backward returns losses that are not detached"
    assert torch.allclose(result.losses, expected.losses), (
        f"{who}: backward returns {result.losses.tolist()}, the losses are {expected.losses.tolist()}"
    )
    assert torch.equal(result.metrics.get("reward", torch.zeros(0)), problem.batch.reward), (
        f"{who}: the metrics that the loss returned are lost, or in another order"
    )
    for name, parameter in problem.parameters.items():
        assert torch.equal(parameter, before[name]), f"{who}: backward changes the parameter {name!r}"
        assert parameter.grad is not None, f"{who}: backward leaves no gradient at {name!r}"
        assert parameter.grad.shape == parameter.shape, f"{who}: the gradient of {name!r} has another shape"
        assert torch.isfinite(parameter.grad).all(), f"{who}: the gradient of {name!r} is not finite"
        assert not parameter.grad.requires_grad, f"{who}: the gradient of {name!r} keeps its graph alive"
    assert problem.bystander.grad is None, f"{who}: backward writes a gradient to what is not in `parameters`"
    gradients: dict[str, Any] = {name: parameter.grad for name, parameter in problem.parameters.items()}
    if len(counts) == 1:
        own = torch.autograd.grad(expected.losses.sum(), list(problem.parameters.values()))
        product = sum((found * wanted).sum().item() for found, wanted in zip(gradients.values(), own, strict=True))
        assert product > 0, f"{who}: a step against the gradient of a single task would not lower its loss"
    aggregator.after_step(problem.loss, problem.batch, problem.parameters)
    for name, parameter in problem.parameters.items():
        assert torch.equal(parameter, before[name]), f"{who}: after_step changes the parameter {name!r}"
        assert parameter.grad is gradients[name], f"{who}: after_step changes the gradient of {name!r}"
    _check_not_finite(who, make, counts)


def _check_shares(who: str, make: _Maker) -> None:
    """A task whose share is 0, as the scheduler's loss weights can make it, moves nothing."""
    problem = LinearProblem((4, 4, 4))
    batch = replace(problem.batch, shares=torch.tensor([0.5, 0.5, 0.0]))
    own = torch.ones(3, requires_grad=True)  # of every task, read by no other

    def loss(parameters: Parameters, batch: Batch) -> TaskLosses:
        result = problem.loss(parameters, batch)
        errors = (parameters["own"][batch.task_ids] - batch.reward).square()
        losses = result.losses + mean_per_task(errors, batch.task_ids, problem.num_tasks)
        return result._replace(losses=losses, gauge=losses)

    make().backward(loss, batch, {**problem.parameters, "own": own})
    assert own.grad is None or own.grad[2] == 0, (
        f"{who}: a task whose share of the batch is 0 has a gradient; losses count with `batch.shares`"
    )


def _check_scales(who: str, make: _Maker, scales: Sequence[float]) -> None:
    aggregator = make()
    for seed in range(1, 4):
        gradients = _gradients(aggregator, LinearProblem([4] * len(scales), seed, scales))
        for name, gradient in gradients.items():
            assert gradient is not None, f"{who}: backward leaves no gradient at {name!r}"
            assert torch.isfinite(gradient).all(), f"{who}: the gradient of {name!r} is not finite"


def _check_not_finite(who: str, make: _Maker, counts: Sequence[int]) -> None:
    """The parameter group stops the run on what it sees, so a NaN must not be swallowed."""
    problem = LinearProblem(counts)
    problem.batch.reward[-1] = torch.nan
    result = make().backward(problem.loss, problem.batch, problem.parameters)
    assert not torch.isfinite(result.losses).all(), f"{who}: a loss that is not finite is returned as if it were"


def _check_state(who: str, make: _Maker, counts: Sequence[int]) -> None:
    original, restored = make(1), make(2)
    for seed in (4, 5, 6):
        _gradients(original, LinearProblem(counts, seed))
    restored.load_state(original.state())
    for seed in (2, 3):
        found = [_gradients(aggregator, LinearProblem(counts, seed)) for aggregator in (original, restored)]
        left, right = (leaves(gradients) for gradients in found)
        assert left == right, f"{who}: after state and load_state it gives other gradients: {differences(left, right)}"


def _gradients(aggregator: GradientAggregator, problem: LinearProblem) -> Mapping[str, Tensor | None]:
    aggregator.backward(problem.loss, problem.batch, problem.parameters)
    aggregator.after_step(problem.loss, problem.batch, problem.parameters)
    return {name: parameter.grad for name, parameter in problem.parameters.items()}
