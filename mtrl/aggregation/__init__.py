"""Gradient aggregation: per-task losses in, one gradient out."""

from mtrl.aggregation import pcgrad
from mtrl.aggregation.aggregator import (
    GradientAggregator,
    JacobianAggregator,
    LossFunction,
    Mean,
    Parameters,
    TaskLosses,
    aggregate,
    aggregators,
    task_gradients,
)

__all__ = [
    "GradientAggregator",
    "JacobianAggregator",
    "LossFunction",
    "Mean",
    "Parameters",
    "TaskLosses",
    "aggregate",
    "aggregators",
    "pcgrad",
    "task_gradients",
]
