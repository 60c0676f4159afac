"""Policy architectures: the registry, the base class to subclass, and the published ones."""

from mtrl.networks.architecture import Ensemble, Output, PolicyArchitecture, SelfUpdating, architectures, as_output, run

from mtrl.networks import experts, hard_sharing, modular, soft_sharing  # isort: skip

__all__ = [
    "Ensemble",
    "Output",
    "PolicyArchitecture",
    "SelfUpdating",
    "architectures",
    "as_output",
    "experts",
    "hard_sharing",
    "modular",
    "run",
    "soft_sharing",
]
