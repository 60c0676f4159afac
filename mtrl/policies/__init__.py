"""Policies: architectures composed into action distributions."""

from mtrl.policies.heads import ActionHead, CategoricalHead, SquashedGaussianHead, make_soft_head
from mtrl.policies.policy import MakeArchitecture, Policy, PolicyOutput, policies

__all__ = [
    "ActionHead",
    "CategoricalHead",
    "MakeArchitecture",
    "Policy",
    "PolicyOutput",
    "SquashedGaussianHead",
    "make_soft_head",
    "policies",
]
