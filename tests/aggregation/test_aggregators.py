"""From per-task losses to one gradient. Shapes: M tasks, P parameters."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from mtrl.aggregation import (
    GradientAggregator,
    JacobianAggregator,
    Mean,
    Parameters,
    TaskLosses,
    aggregators,
    task_gradients,
)
from mtrl.seeding import torch_stream
from mtrl.testing import check_aggregator
from mtrl.testing.aggregator import COUNTS, LinearProblem
from mtrl.types import Batch


class IdentityWeighting(JacobianAggregator):
    """Every task the same weight."""

    def weights(self, gramian: Tensor) -> Tensor:
        return torch.full((len(gramian),), 1 / len(gramian))


def make(cls: type[GradientAggregator], num_tasks: int) -> GradientAggregator:
    return cls(num_tasks, cls.Config(), torch_stream(1, "aggregator"))


def gradients(aggregator: GradientAggregator, problem: LinearProblem) -> dict[str, Tensor]:
    aggregator.backward(problem.loss, problem.batch, problem.parameters)
    return {name: parameter.grad.clone() for name, parameter in problem.parameters.items()}


@pytest.mark.parametrize("name", [name for name, _ in aggregators.items()])
def test_every_registered_aggregator_keeps_the_contract(name: str) -> None:
    check_aggregator(aggregators.get(name))


@pytest.mark.parametrize("counts", [*COUNTS, (3, 0, 0, 9)], ids=str)
@pytest.mark.parametrize("vectorized", [True, False])
def test_the_identity_weighting_equals_mean(counts: Sequence[int], vectorized: bool) -> None:
    identity = make(IdentityWeighting, len(counts))
    identity.vectorized = vectorized
    found = gradients(identity, LinearProblem(counts))
    expected = gradients(make(Mean, len(counts)), LinearProblem(counts))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_mean_weighs_a_task_by_its_share_of_the_batch() -> None:
    problem = LinearProblem((1, 3))
    found = gradients(make(Mean, 2), problem)
    losses = problem.loss(problem.parameters, problem.batch).losses
    expected = torch.autograd.grad(0.25 * losses[0] + 0.75 * losses[1], list(problem.parameters.values()))
    for name, value in zip(problem.parameters, expected, strict=True):
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("counts", [(5, 5, 5), (4,)], ids=str)
def test_one_vectorized_pass_gives_what_task_slices_give(counts: Sequence[int]) -> None:
    problem = LinearProblem(counts)
    arguments = problem.loss, problem.batch, problem.parameters, len(counts)
    (by_vmap, vmap_losses), (by_slices, slice_losses) = task_gradients(*arguments), task_gradients(*arguments, False)
    for name in by_slices:
        torch.testing.assert_close(by_vmap[name], by_slices[name])
    torch.testing.assert_close(vmap_losses.losses, slice_losses.losses)
    assert torch.equal(vmap_losses.metrics["reward"], slice_losses.metrics["reward"])


@pytest.mark.parametrize("counts", [(4, 4, 4), (1, 4, 2), (4, 0, 4)], ids=str)
def test_an_auxiliary_loss_of_every_task_is_counted_once(counts: Sequence[int]) -> None:
    # A regulariser of the parameters has a value for each task, whichever samples the loss is given.
    problem = LinearProblem(counts)

    def regularised(parameters: Parameters, batch: Batch) -> TaskLosses:
        result = problem.loss(parameters, batch)
        return TaskLosses(result.losses + parameters["bias"].square().sum() * torch.arange(1.0, 4.0), result.metrics)

    found: list[dict[str, Tensor]] = []
    for cls in (IdentityWeighting, Mean):
        make(cls, 3).backward(regularised, problem.batch, problem.parameters)
        found.append({name: parameter.grad.clone() for name, parameter in problem.parameters.items()})
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name])


def test_a_task_without_samples_has_loss_zero_and_changes_nothing() -> None:
    alone, beside = LinearProblem((6,)), LinearProblem((0, 6))
    beside.batch = Batch(**{**vars(alone.batch), "task_ids": torch.ones(6, dtype=torch.int64), "counts": (0, 6),
                            "shares": torch.tensor([0.0, 1.0])})  # fmt: skip
    for cls in (Mean, IdentityWeighting):
        first, second = gradients(make(cls, 1), alone), gradients(make(cls, 2), beside)
        for name in first:
            torch.testing.assert_close(first[name], second[name])


def test_gradients_are_written_on_the_given_parameters_only() -> None:
    for cls in (Mean, IdentityWeighting):
        problem = LinearProblem((2, 2))
        own = {"bias": problem.parameters["bias"]}

        def loss(parameters: Parameters, batch: Batch, problem: LinearProblem = problem) -> TaskLosses:
            return problem.loss({**problem.parameters, **parameters}, batch)

        make(cls, 2).backward(loss, problem.batch, own)
        assert problem.parameters["bias"].grad is not None
        assert problem.parameters["weight"].grad is None
        assert problem.bystander.grad is None


class RefusedProblem(LinearProblem):
    """A loss that reads values, which `vmap` refuses."""

    def loss(self, parameters: Parameters, batch: Batch) -> TaskLosses:
        assert len(batch.task_ids.unique()) == 1
        return super().loss(parameters, batch)


def test_where_vmap_refuses_a_loss_the_tasks_are_taken_apart_and_it_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts = (5, 5, 5)
    aggregators_of_groups = [make(IdentityWeighting, 3) for _ in range(2)]
    for aggregator in aggregators_of_groups * 2:
        found = gradients(aggregator, RefusedProblem(counts))
        expected = gradients(make(IdentityWeighting, 3), LinearProblem(counts))
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
        assert not aggregator.vectorized
    (record,) = caplog.records
    assert "vmap refuses a network" in record.message


def test_a_loss_that_fails_either_way_is_no_refusal_of_vmap(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(LinearProblem):
        def loss(self, parameters: Parameters, batch: Batch) -> TaskLosses:
            raise RuntimeError("shapes do not fit")

    aggregator = make(IdentityWeighting, 3)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        gradients(aggregator, Broken((5, 5, 5)))
    assert aggregator.vectorized
    assert not caplog.records
