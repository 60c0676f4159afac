"""Metric loggers: the terminal, JSON lines, TensorBoard."""
