"""Gradient aggregation: per-task losses in, one gradient out."""

from mtrl.aggregation.aggregator import (
    GradientAggregator,
    JacobianAggregator,
    LossWeighting,
    Mean,
    PresentTasks,
    aggregate,
    aggregators,
    gramian_of,
)
from mtrl.aggregation.task_losses import LossFunction, Parameters, TaskLosses, task_gradients

from mtrl.aggregation import pcgrad, weighting  # isort: skip

__all__ = [
    "GradientAggregator",
    "JacobianAggregator",
    "LossFunction",
    "LossWeighting",
    "Mean",
    "Parameters",
    "PresentTasks",
    "TaskLosses",
    "aggregate",
    "aggregators",
    "gramian_of",
    "pcgrad",
    "task_gradients",
    "weighting",
]
