"""Small agents and runs, for checks and tests. Shapes: N slots, M tasks."""

from __future__ import annotations

from typing import Any

import torch

from mtrl.agent import Agent, Parts, seeded_construction
from mtrl.aggregation import GradientAggregator, Mean
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.encoders import Encoder, Identity
from mtrl.env.episodes import RandomEpisodes
from mtrl.networks import PolicyArchitecture
from mtrl.networks.hard_sharing.mlp import MLP
from mtrl.normalization import NoNormalizer, ReturnNormalizer
from mtrl.policies import ActionHead, Policy
from mtrl.policies.policy import Single
from mtrl.scheduling import TaskScheduler
from mtrl.scheduling.uniform import Uniform
from mtrl.seeding import torch_stream
from mtrl.env.suite import SuiteType
from mtrl.training.train_state import TrainState
from mtrl.types import TaskSuite

MAX_BUFFER_STEPS = 20_000
"""Vector steps that the buffer of a small run holds at most, beside one rollout."""


def make_agent(
    cls: type[Agent],
    config: Any,
    suite: TaskSuite,
    seed: int = 1,
    *,
    encoder: type[Encoder] = Identity,
    architecture: type[PolicyArchitecture] = MLP,
    architecture_config: Any = None,
    aggregator: type[GradientAggregator] = Mean,
    normalizer: type[ReturnNormalizer] = NoNormalizer,
    policy: type[Policy] = Single,
    policy_config: Any = None,
    record_losses: bool = False,
) -> Any:
    """An agent on small parts; by default a perceptron of one hidden layer, the mean of the tasks and no normaliser."""
    if architecture_config is None:
        architecture_config = MLP.Config(width=16, depth=1) if architecture is MLP else architecture.Config()

    def make_architecture(in_features: int, out_features: int, *, num_tasks: int | None = None) -> PolicyArchitecture:
        return architecture(in_features, out_features, num_tasks or suite.num_tasks, architecture_config)

    def make_value_network(in_features: int, out_features: int) -> PolicyArchitecture:
        settings = architecture.value_config(architecture_config)
        return architecture(in_features, out_features, suite.num_tasks, settings)

    def make_policy(in_features: int, head: ActionHead) -> Policy:
        return policy(make_architecture, in_features, head, policy_config or policy.Config())

    def make_aggregator(group: str) -> GradientAggregator:
        return aggregator(suite.num_tasks, aggregator.Config(), torch_stream(seed, f"aggregator {group}"))

    parts = Parts(
        suite=suite,
        encoder=lambda: encoder(suite.observation_space, encoder.Config()),
        policy=make_policy,
        value_network=make_value_network,
        normalizer=lambda: normalizer(suite.num_tasks, normalizer.Config()),
        aggregator=make_aggregator,
        seed=seed,
        record_losses=record_losses,
        device=torch.device("cpu"),
    )
    with seeded_construction(seed, "initial weights"):
        return cls(parts, config)


def make_train_state(
    agent: Agent, world: SuiteType, num_envs: int = 4, seed: int = 1, scheduler: TaskScheduler | None = None
) -> TrainState:
    """A run of `agent` on `world` in this process, with equal shares unless a scheduler is given."""
    suite = world.suite
    capacity = min(agent.buffer_steps, MAX_BUFFER_STEPS + agent.rollout_steps)
    buffer = RolloutBuffer(suite, num_envs, capacity, seed, agent.extras)
    episodes = RandomEpisodes(suite, num_envs, seed)
    envs = world.make_envs(num_envs, episodes, mode="train", num_workers=0, worker_timeout=60.0)
    return TrainState(agent, envs, buffer, scheduler or Uniform(suite, Uniform.Config(), seed))
