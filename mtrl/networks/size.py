"""How large an architecture is: its parameters, and the work of a forward pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mtrl.networks.architecture import PolicyArchitecture

ROWS_PER_TASK = 10
"""Of the batch that is counted; what is computed once per task is spread over them."""


class NetworkSize(NamedTuple):
    """What a network costs."""

    num_parameters: int
    flops: float  # per row of a forward pass, matrix products alone


def num_parameters(module: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def measure_size(
    cls: type[PolicyArchitecture], config: Any, in_features: int, out_features: int, num_tasks: int
) -> NetworkSize:
    """The size of a new network of these settings."""
    with torch.random.fork_rng(devices=[]):  # initial weights are thrown away, and leave the global generator alone
        network = cls(in_features, out_features, num_tasks, config)
    task_ids = torch.arange(num_tasks).repeat_interleave(ROWS_PER_TASK)  # as learners draw them
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(len(task_ids), in_features), task_ids)
    return NetworkSize(num_parameters(network), counter.get_total_flops() / len(task_ids))
