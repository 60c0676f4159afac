"""Gradient aggregation: per-task losses in, one gradient out."""

from mtrl.aggregation.aggregator import (
    GradientAggregator,
    JacobianAggregator,
    LossWeighting,
    Mean,
    PresentTasks,
    aggregate,
    aggregators,
    cosines_of,
    gramian_of,
)
from mtrl.aggregation.task_losses import LossFunction, Parameters, TaskLosses, task_gradients

from mtrl.aggregation import optimization, projection, representation, weighting  # isort: skip

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
    "cosines_of",
    "gramian_of",
    "optimization",
    "projection",
    "representation",
    "task_gradients",
    "weighting",
]
