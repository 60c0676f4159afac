"""Small agents and runs, for checks and tests. Shapes: N slots, M tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mtrl.agent import Agent
from mtrl.aggregation import GradientAggregator, Mean
from mtrl.auxiliary import AuxiliaryTask
from mtrl.encoders import Encoder, Identity
from mtrl.env.suite import Suite
from mtrl.networks import PolicyArchitecture
from mtrl.networks.hard_sharing.mlp import MLP
from mtrl.normalization import NoNormalizer, ReturnNormalizer
from mtrl.policies import Policy
from mtrl.policies.policy import Single
from mtrl.scheduling import TaskScheduler
from mtrl.scheduling.uniform import Uniform
from mtrl.training import build
from mtrl.training.build import Chosen
from mtrl.training.train_state import TrainState
from mtrl.types import SuiteSpec

MAX_VECTOR_STEPS = 20_000
"""Vector steps that the buffer of a small run has room for."""


def make_agent(
    cls: type[Agent],
    config: Any,
    spec: SuiteSpec,
    seed: int = 1,
    *,
    num_envs: int = 4,
    encoder: type[Encoder] = Identity,
    architecture: type[PolicyArchitecture] = MLP,
    architecture_config: Any = None,
    aggregator: type[GradientAggregator] = Mean,
    aggregators: Mapping[str, type[GradientAggregator]] | None = None,
    normalizer: type[ReturnNormalizer] = NoNormalizer,
    policy: type[Policy] = Single,
    policy_config: Any = None,
    auxiliary: Sequence[type[AuxiliaryTask] | Chosen] = (),
) -> Any:
    """An agent of small components; by default an MLP of one hidden layer, the mean of the tasks and no normalizer.

    aggregators: by parameter group, where not the common one. auxiliary: called by the names of their classes.
    """
    if architecture_config is None:
        architecture_config = MLP.Config(width=16, depth=1) if architecture is MLP else architecture.Config()
    chosen = {
        "agent": Chosen(cls, config),
        "encoder": Chosen(encoder, encoder.Config()),
        "architecture": Chosen(architecture, architecture_config),
        "policy": Chosen(policy, policy_config or policy.Config()),
        "aggregator": Chosen(aggregator, aggregator.Config()),
        "normalizer": Chosen(normalizer, normalizer.Config()),
    }
    for group, own in (aggregators or {}).items():
        chosen[f"aggregator.{group}"] = Chosen(own, own.Config())
    for task in auxiliary:
        own_task = task if isinstance(task, Chosen) else Chosen(task, task.Config())
        chosen[f"auxiliary.{own_task.cls.__name__}"] = own_task
    return build.make_agent(spec, chosen, num_envs=num_envs, seed=seed, device=torch.device("cpu"))


def make_train_state(agent: Agent, suite: Suite, seed: int = 1, scheduler: TaskScheduler | None = None) -> TrainState:
    """A run of `agent` on `suite` in this process, with equal shares unless a scheduler is given."""
    return build.make_train_state(
        agent,
        suite,
        scheduler or Uniform(suite.spec, Uniform.Config(), seed),
        seed=seed,
        max_vector_steps=MAX_VECTOR_STEPS,
        num_workers=0,
    )
