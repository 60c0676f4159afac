"""Metric loggers: the terminal, JSON lines, TensorBoard and others; callbacks; and the names of metrics."""

from mtrl.loggers.metric_logger import Callback, LoggedRun, MetricLogger

__all__ = ["Callback", "LoggedRun", "MetricLogger"]
