"""Gradients to try aggregators on. Shapes: M tasks, P parameters."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from mtrl.aggregation import JacobianAggregator
from mtrl.seeding import torch_stream

A = TypeVar("A", bound=JacobianAggregator)

CONFLICT = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
"""Two gradients whose inner product is -1."""


def make(cls: type[A], num_tasks: int, seed: int = 1, **settings: Any) -> A:
    return cls(num_tasks, cls.Config(**settings), torch_stream(seed, "aggregator"))


def random_jacobian(num_tasks: int, num_parameters: int, seed: int, mean: float = 0.0) -> Tensor:
    """Gradients (M, P) of norms between 1/10 and 10 times sqrt(P)."""
    generator = torch_stream(seed, "jacobian")
    jacobian = torch.randn(num_tasks, num_parameters, generator=generator, dtype=torch.float64) + mean
    return jacobian * 10 ** (2 * torch.rand(num_tasks, 1, generator=generator, dtype=torch.float64) - 1)


def gramian(jacobian: Tensor) -> Tensor:
    return jacobian @ jacobian.T


def diagonal(*squared_norms: float) -> Tensor:
    """The Gramian of orthogonal gradients."""
    return torch.diag(torch.tensor(squared_norms, dtype=torch.float64))
