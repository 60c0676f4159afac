"""Gradient methods that change the tasks' gradients, each by itself, where they conflict; then the mean."""

from mtrl.aggregation.projection import config, gem, gradvac, pcgrad, upgrad

__all__ = ["config", "gem", "gradvac", "pcgrad", "upgrad"]
