"""Metric loggers: the terminal, JSON lines, TensorBoard; and the names of metrics."""
