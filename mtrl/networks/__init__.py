"""Policy architectures: the registry, the base class to subclass, and the plain ones."""

from mtrl.networks import (
    adashare,
    care,
    cross_stitch,
    film,
    mlp,
    mmoe,
    moore,
    multi_head,
    paco,
    pathnet,
    separate,
    sluice,
    soft_modules,
    soft_ordering,
    task_routing,
)
from mtrl.networks.architecture import Output, PolicyArchitecture, architectures, run
from mtrl.networks.ensemble import Ensemble

__all__ = [
    "Ensemble",
    "Output",
    "PolicyArchitecture",
    "adashare",
    "architectures",
    "care",
    "cross_stitch",
    "film",
    "mlp",
    "mmoe",
    "moore",
    "multi_head",
    "paco",
    "pathnet",
    "run",
    "separate",
    "sluice",
    "soft_modules",
    "soft_ordering",
    "task_routing",
]
