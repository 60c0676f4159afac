"""Mixtures of experts, weighted per task."""

from mtrl.networks.experts import care, mmoe, moore, paco

__all__ = ["care", "mmoe", "moore", "paco"]
