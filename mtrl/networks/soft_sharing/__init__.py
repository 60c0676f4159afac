"""Architectures with a column per task that read each other: soft parameter sharing."""

from mtrl.networks.soft_sharing import cross_stitch, sluice

__all__ = ["cross_stitch", "sluice"]
