"""Loss weightings: one weight per task loss at every update."""

from mtrl.aggregation.weighting import (
    db_mtl,
    dwa,
    famo,
    focal_speed,
    geometric_mean,
    gradnorm,
    lbtw,
    rlw,
    stch,
    uncertainty,
)

__all__ = [
    "db_mtl",
    "dwa",
    "famo",
    "focal_speed",
    "geometric_mean",
    "gradnorm",
    "lbtw",
    "rlw",
    "stch",
    "uncertainty",
]
