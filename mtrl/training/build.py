"""From a configuration to the objects of a run: the one place where parts are put together."""

from __future__ import annotations

import os
from typing import Any

import torch

from mtrl.agent import Agent, Parts, seeded_construction
from mtrl.aggregation import GradientAggregator
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.config.schema import CONFIG_GROUPS, Choice, RunConfig
from mtrl.encoders import Encoder
from mtrl.env.episodes import RandomEpisodes
from mtrl.errors import BadInput
from mtrl.networks import PolicyArchitecture
from mtrl.policies import ActionHead, Policy
from mtrl.scheduling import TaskScheduler
from mtrl.seeding import torch_stream
from mtrl.env.suite import SuiteType
from mtrl.training.train_state import TrainState

_GROUPS = {group.name: group for group in CONFIG_GROUPS}


def build_world(suite: Choice, seed: int) -> SuiteType:
    """The suite that a configuration names. Raises BadInput."""
    return _GROUPS["suite"].find(suite.name)(suite.name, suite.config, seed)


def build_encoder(config: RunConfig, world: SuiteType) -> Encoder:
    """A new encoder of the suite's observations. Raises BadInput where it cannot take them."""
    encoder: Encoder = _GROUPS["encoder"].find(config.encoder.name)(world.suite.observation_space, config.encoder.config)
    encoder.precision = config.settings.precision
    return encoder


def build_agent(config: RunConfig, world: SuiteType, device: torch.device) -> Agent:
    """A new agent on `device`; its initial weights depend on the seed and the configuration alone."""
    suite, seed = world.suite, config.settings.seed

    def cls(part: str) -> Any:
        return _GROUPS[part].find(getattr(config, part).name)

    def make_architecture(in_features: int, out_features: int, *, num_tasks: int | None = None) -> PolicyArchitecture:
        num_tasks = num_tasks or suite.num_tasks
        return configured(in_features, out_features, num_tasks, config.architecture.config)

    def make_value_network(in_features: int, out_features: int) -> PolicyArchitecture:
        settings = cls("architecture").value_config(config.architecture.config)
        return configured(in_features, out_features, suite.num_tasks, settings)

    def configured(*arguments: Any) -> PolicyArchitecture:
        architecture: PolicyArchitecture = cls("architecture")(*arguments)
        architecture.precision = config.settings.precision
        return architecture

    def make_policy(in_features: int, head: ActionHead) -> Policy:
        return cls("policy")(make_architecture, in_features, head, config.policy.config)

    def make_aggregator(group: str) -> GradientAggregator:
        generator = torch_stream(seed, f"aggregator {group}")
        return cls("aggregator")(suite.num_tasks, config.aggregator.config, generator)

    parts = Parts(
        suite=suite,
        encoder=lambda: build_encoder(config, world),
        policy=make_policy,
        value_network=make_value_network,
        normalizer=lambda: cls("normalizer")(suite.num_tasks, config.normalizer.config),
        aggregator=make_aggregator,
        seed=seed,
        device=device,
        cuda_graphs=config.settings.cuda_graphs and device.type == "cuda",
    )
    with seeded_construction(seed, "initial weights"):
        return cls("agent")(parts, config.agent.config)


def build_scheduler(config: RunConfig, world: SuiteType) -> TaskScheduler:
    """The scheduler of a run. Raises BadInput for a suite that it cannot schedule."""
    cls: Any = _GROUPS["scheduler"].find(config.scheduler.name)
    return cls(world.suite, config.scheduler.config, config.settings.seed)


def build_train_state(config: RunConfig, world: SuiteType, device: torch.device) -> TrainState:
    """Agent, environments, buffer and scheduler of a run; the environments' workers are started."""
    settings = config.settings
    num_envs = settings.num_envs or world.suite.num_tasks
    agent = build_agent(config, world, device)
    scheduler = build_scheduler(config, world)
    # No more rows than the run can fill; its last rollout may go beyond its end.
    capacity = min(agent.buffer_steps, settings.total_env_steps // num_envs + agent.rollout_steps)
    buffer = RolloutBuffer(world.suite, num_envs, capacity, settings.seed, agent.extras, device)
    envs = world.make_envs(
        num_envs,
        RandomEpisodes(world.suite, num_envs, settings.seed),
        mode="train",
        num_workers=num_workers(config),
        worker_timeout=settings.worker_timeout,
    )
    return TrainState(agent, envs, buffer, scheduler)


def num_workers(config: RunConfig) -> int:
    """Environment processes of a run; one per core by default."""
    chosen = config.settings.num_workers
    return len(os.sched_getaffinity(0)) if chosen is None else chosen


def choose_device(name: str) -> torch.device:
    """`auto`: the GPU if there is one. Raises BadInput for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("device 'cuda' is not available here; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
