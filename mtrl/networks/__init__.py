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
    routing,
    separate,
    sluice,
    soft_modules,
    soft_ordering,
    task_routing,
)
from mtrl.networks.architecture import Output, PolicyArchitecture, SelfUpdating, architectures, run
from mtrl.networks.ensemble import Ensemble

__all__ = [
    "Ensemble",
    "Output",
    "PolicyArchitecture",
    "SelfUpdating",
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
    "routing",
    "run",
    "separate",
    "sluice",
    "soft_modules",
    "soft_ordering",
    "task_routing",
]
