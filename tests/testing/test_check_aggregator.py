"""The contract of an aggregator finds what it is meant to find. Each class below breaks it in one way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtrl.aggregation import GradientAggregator, JacobianAggregator, LossFunction, Mean, Parameters, TaskLosses
from mtrl.aggregation.aggregator import write_gradients
from mtrl.testing import check_aggregator
from mtrl.types import Batch, State


class WritesEverywhere(Mean):
    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        result = loss_fn(parameters, batch)
        (result.losses * batch.shares).sum().backward()
        return TaskLosses(result.losses.detach(), result.metrics)


class LosesMetrics(Mean):
    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        return TaskLosses(super().backward(loss_fn, batch, parameters).losses)


class KeepsTheGraph(Mean):
    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        super().backward(loss_fn, batch, parameters)
        return loss_fn(parameters, batch)


class TotalsLosses(Mean):
    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        result = super().backward(loss_fn, batch, parameters)
        return TaskLosses(result.losses.sum(), result.metrics)


class StepsItself(Mean):
    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        result = super().backward(loss_fn, batch, parameters)
        with torch.no_grad():
            parameters["bias"].sub_(1e-3)
        return result


class LeavesOneOut(Mean):
    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        result = super().backward(loss_fn, batch, parameters)
        parameters["weight"].grad = None
        return result


class SwallowsNaN(Mean):
    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        result = super().backward(loss_fn, batch, parameters)
        return TaskLosses(result.losses.nan_to_num(), result.metrics)


class IgnoresShares(Mean):
    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        result = loss_fn(parameters, batch)
        write_gradients(result.losses.mean(), parameters)
        return TaskLosses(result.losses.detach(), result.metrics)


class Climbs(Mean):
    def backward(self, loss_fn: LossFunction, batch: Batch, parameters: Parameters) -> TaskLosses:
        result = super().backward(loss_fn, batch, parameters)
        for parameter in parameters.values():
            parameter.grad = -parameter.grad  # type: ignore[operator]
        return result


class RandomWeights(JacobianAggregator):
    def weights(self, gramian: Tensor) -> Tensor:
        return torch.rand(len(gramian), generator=self.generator)


class ForgetsItsGenerator(RandomWeights):
    def load_state(self, state: State) -> None: ...


class DrawsGlobally(JacobianAggregator):
    def weights(self, gramian: Tensor) -> Tensor:
        return torch.rand(len(gramian))


def test_an_aggregator_that_draws_from_its_own_stream_passes() -> None:
    check_aggregator(RandomWeights)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (WritesEverywhere, "backward writes a gradient to what is not in `parameters`"),
        (LosesMetrics, "the metrics that the loss returned are lost"),
        (KeepsTheGraph, "returns losses that are not detached"),
        (TotalsLosses, r"backward returns losses \(\), not one per task"),
        (StepsItself, "backward changes the parameter 'bias'"),
        (LeavesOneOut, "backward leaves no gradient at 'weight'"),
        (SwallowsNaN, "a loss that is not finite is returned as if it were"),
        (IgnoresShares, "a task whose share of the batch is 0 has a gradient"),
        (Climbs, "a step against the gradient of a single task would not lower its loss"),
        (ForgetsItsGenerator, "after state and load_state it gives other gradients"),
        (DrawsGlobally, "after state and load_state it gives other gradients|uses the global generator of torch"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_aggregator_is_told_what_is_wrong(cls: type[GradientAggregator], message: str) -> None:
    with pytest.raises(AssertionError, match=message) as caught:
        check_aggregator(cls)
    assert cls.__qualname__ in str(caught.value)
