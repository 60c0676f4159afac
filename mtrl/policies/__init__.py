"""Policies: architectures composed into action distributions."""

from mtrl.policies import distral
from mtrl.policies.heads import (
    ActionHead,
    CategoricalHead,
    GaussianHead,
    SoftHead,
    SquashedGaussianHead,
    make_policy_gradient_head,
    make_soft_head,
)
from mtrl.policies.policy import AveragedPolicy, MakeArchitecture, Policy, PolicyOutput, policies

__all__ = [
    "ActionHead",
    "AveragedPolicy",
    "CategoricalHead",
    "GaussianHead",
    "MakeArchitecture",
    "Policy",
    "PolicyOutput",
    "SoftHead",
    "SquashedGaussianHead",
    "distral",
    "make_policy_gradient_head",
    "make_soft_head",
    "policies",
]
