"""SAC agents whose networks are constants, and batches written by hand. Shapes: B batch, M tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from agents.sac import SAC
from mtrl.agent import Agent
from mtrl.aggregation import GradientAggregator, Mean
from mtrl.testing.small_runs import make_agent
from mtrl.types import Batch
from tests.env.counting import counting_suite

CONTINUOUS, DISCRETE = counting_suite("counting"), counting_suite("counting-discrete")
SMALL = {"batch_size": 24, "learning_starts": 20}


def sac(suite: Any = CONTINUOUS, components: dict[str, Any] | None = None, **config: Any) -> SAC:
    return make_agent(SAC, SAC.Config(**SMALL | config), suite.spec, **components or {})


def make_constant(network: nn.Module, outputs: Sequence[float]) -> None:
    """The network gives `outputs` for every input."""
    make_zero(network)
    network.head.bias.data.copy_(torch.tensor(outputs))


def make_zero(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.data.zero_()


def with_constants(agent: SAC, policy: Sequence[float], critics: Sequence[Sequence[float]]) -> SAC:
    """The agent with constant networks; target critics get the values of the critics plus 10."""
    make_constant(agent.policy.architecture, policy)
    for member, target, values in zip(
        agent.critics.ensemble.members, agent.target_critics.ensemble.members, critics, strict=True
    ):
        make_constant(member, values)
        make_constant(target, [value + 10 for value in values])
    agent.use_last_weights()
    return agent


def batch_of(task_ids: Sequence[int], num_tasks: int = 3, **columns: Any) -> Batch:
    """Transitions of the given tasks; continuous actions and noise are zero unless given."""
    rows = len(task_ids)
    counts = np.bincount(task_ids, minlength=num_tasks)
    values: dict[str, Any] = {
        "task_ids": torch.tensor(task_ids),
        "observation": torch.ones(rows, 5),
        "action": torch.zeros(rows, 2),
        "reward": torch.zeros(rows),
        "terminated": torch.zeros(rows, dtype=torch.bool),
        "truncated": torch.zeros(rows, dtype=torch.bool),
        "next_observation": torch.ones(rows, 5),
        "shares": torch.from_numpy(counts / rows).float(),
        "counts": tuple(counts.tolist()),
        "noise": {"next_action": torch.zeros(rows, 2), "action": torch.zeros(rows, 2)},
    }
    return Batch(**values | columns)


def with_target(agent: SAC, batch: Batch) -> Batch:
    """The batch as the critics' loss takes it."""
    return replace(batch, extras={**batch.extras, "target": agent.bellman_target(batch)})


def set_alpha(agent: SAC, alpha: Sequence[float]) -> None:
    with torch.no_grad():
        agent.temperatures.log_alpha.copy_(torch.tensor(alpha).log())


# Two dimensions of a standard Gaussian at its mean; tanh has slope 1 there.
LOG_PROB = -math.log(2 * math.pi)
STANDARD_GAUSSIAN = [0.0, 0.0, 0.0, 0.0]  # two means, two log standard deviations


def aggregated(agent: type[Agent], cls: type[GradientAggregator]) -> dict[str, Any]:
    """Components of an agent with that aggregator, and `mean` where a group has no gauge and it needs one."""
    signed = [name for name, has_gauge in agent.group_gauges.items() if cls.needs_gauge and not has_gauge]
    return {"aggregator": cls, "aggregators": dict.fromkeys(signed, Mean)}
