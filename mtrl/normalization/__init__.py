"""Return normalisation per task."""

from mtrl.normalization import popart, return_range, return_scale, reward_clip, task_mean
from mtrl.normalization.normalizer import NoNormalizer, ReturnNormalizer, ValueOutput, normalizers

__all__ = [
    "NoNormalizer",
    "ReturnNormalizer",
    "ValueOutput",
    "normalizers",
    "popart",
    "return_range",
    "return_scale",
    "reward_clip",
    "task_mean",
]
