"""From a configuration to the objects of a run: the one place where components are put together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import torch

from mtrl.agent import Agent, Components, agent_types
from mtrl.aggregation import GradientAggregator, aggregators
from mtrl.auxiliary import AuxiliaryContext, AuxiliaryMaker, AuxiliaryTask
from mtrl.buffer.rollout_buffer import RolloutBuffer, buffer_bytes
from mtrl.config.schema import AUXILIARY, GROUP_BY_NAME, Choice, RunConfig
from mtrl.data_parallel.ranks import WORLD
from mtrl.encoders import Encoder
from mtrl.encoders.encoder import refuse_wrong_features
from mtrl.env.episodes import RandomEpisodes
from mtrl.env.shared_out import shared_out
from mtrl.env.suite import Suite
from mtrl.errors import BadInput
from mtrl.faults import WrongResult
from mtrl.networks import PolicyArchitecture
from mtrl.normalization import ReturnNormalizer
from mtrl.normalization.normalizer import refuse_wrong_shapes
from mtrl.optim.cpu import available_cores
from mtrl.optim.memory import RoomForNetworks, refusals_named, require_memory
from mtrl.policies import ActionHead, Policy
from mtrl.scheduling import TaskScheduler
from mtrl.seeding import seeded_construction, torch_stream
from mtrl.training.train_state import TrainState
from mtrl.types import Precision, SuiteSpec

_SET_BY_CONSTRUCTORS: dict[type, dict[str, type]] = {
    Agent: {"spec": SuiteSpec, "num_envs": int, "rollout_steps": int, "buffer_size": int},
    PolicyArchitecture: {"out_features": int, "noise_size": int, "route_size": int},
    Policy: {"head": ActionHead, "noise_size": int, "route_size": int},
    Encoder: {"out_features": int},
    GradientAggregator: {"generator": torch.Generator},
    AuxiliaryTask: {"num_tasks": int},
    TaskScheduler: {"mode": str, "num_tasks": int},
    ReturnNormalizer: {"training": bool},
}
"""What the constructor of a class, or of its base, has to set."""


class Chosen(NamedTuple):
    """A class and its settings."""

    cls: Any
    config: Any


def make(cls: type, *arguments: Any) -> Any:
    """A new instance. Raises WrongResult for one that its constructor, or that of its base, left unfinished."""
    instance = cls(*arguments)
    for base, attributes in _SET_BY_CONSTRUCTORS.items():
        for name, kind in attributes.items() if isinstance(instance, base) else ():
            value = getattr(instance, name, None)
            if not isinstance(value, Integral if kind is int else kind):
                raise WrongResult(
                    f"has {name} = {value!r} after __init__, expected {kind.__name__}; "
                    f"super().__init__ of {base.__name__} takes the constructor's arguments"
                )
    return instance


def make_encoder(chosen: Chosen, spec: SuiteSpec) -> Encoder:
    """A new encoder of the suite's observations. Raises BadInput where it cannot take them."""
    encoder = make(chosen.cls, spec.observation_space, chosen.config)
    refuse_wrong_features(encoder, spec.observation_space)
    return encoder


def make_agent(
    spec: SuiteSpec,
    chosen: Mapping[str, Chosen],
    *,
    num_envs: int,
    seed: int,
    device: torch.device,
    precision: Precision = "float32",
    cuda_graphs: bool = False,
    learning: bool = True,
) -> Agent:
    """A new agent of the `chosen` classes (agent, architecture, policy, encoder, aggregator, normalizer).

    A parameter group with an aggregator of its own has it as `aggregator.GROUP`, auxiliary tasks are `auxiliary.NAME`.
    Its initial weights depend on these and the seed alone. learning: False for one that will only play.
    Raises BadInput if its networks do not fit the memory, a group has no gauge where its aggregator needs one, or the
    agent takes no auxiliary tasks.
    """
    architecture, policy, encoder = chosen["architecture"], chosen["policy"], chosen["encoder"]
    architecture = Chosen(architecture.cls, architecture.cls.config_for(architecture.config, spec.task_names))
    normalizer = chosen["normalizer"]

    def make_architecture(in_features: int, out_features: int, *, num_tasks: int | None = None) -> PolicyArchitecture:
        return make(architecture.cls, in_features, out_features, num_tasks or spec.num_tasks, architecture.config)

    def make_value_network(in_features: int, out_features: int) -> PolicyArchitecture:
        settings = architecture.cls.value_config(architecture.config)
        return make(architecture.cls, in_features, out_features, spec.num_tasks, settings)

    def make_policy(in_features: int, head: ActionHead) -> Policy:
        return make(policy.cls, make_architecture, in_features, head, policy.config)

    def make_aggregator(group: str) -> GradientAggregator:
        aggregator = chosen.get(f"aggregator.{group}", chosen["aggregator"])
        if aggregator.cls.needs_gauge and not chosen["agent"].cls.group_gauges.get(group, False):
            name = aggregators.name_of(aggregator.cls)
            raise BadInput(
                f"aggregator {name!r} reads losses that are never negative, and those of the parameter group {group!r} "
                f"are signed; choose another for that one: --aggregator {name} --aggregator.{group} mean"
            )
        return make(aggregator.cls, spec.num_tasks, aggregator.config, torch_stream(seed, f"aggregator {group}"))

    def make_normalizer(discount: float) -> ReturnNormalizer:
        made = make(normalizer.cls, spec.num_tasks, normalizer.config, discount)
        refuse_wrong_shapes(made, spec.num_tasks)
        return made

    auxiliaries = {
        key.removeprefix(f"{AUXILIARY.name}."): AuxiliaryMaker(own.cls.trains, partial(_make_auxiliary, own))
        for key, own in chosen.items()
        if key.startswith(f"{AUXILIARY.name}.")
    }
    components = Components(
        spec=spec,
        num_envs=num_envs,
        encoder=lambda: make_encoder(encoder, spec),
        policy=make_policy,
        value_network=make_value_network,
        normalizer=make_normalizer,
        aggregator=make_aggregator,
        seed=seed,
        device=device,
        precision=precision,
        cuda_graphs=cuda_graphs,
        auxiliaries=auxiliaries,
        learning=learning,
    )
    room = refusals_named("the networks", overflow=True), RoomForNetworks()
    with room[0], room[1], seeded_construction(seed, "initial weights"):
        agent = make(chosen["agent"].cls, components, chosen["agent"].config)
    taken = {name for group in agent.groups().values() for name in group.auxiliaries}
    if refused := [name for name in auxiliaries if name not in taken]:
        raise BadInput(
            f"the agent {agent_types.name_of(type(agent))!r} takes no auxiliary tasks ({', '.join(refused)})"
        )
    return agent


def _make_auxiliary(chosen: Chosen, context: AuxiliaryContext) -> AuxiliaryTask:
    return make(chosen.cls, context, chosen.config)


def make_train_state(
    agent: Agent,
    suite: Suite,
    scheduler: TaskScheduler,
    *,
    seed: int,
    max_vector_steps: int,
    num_workers: int,
    worker_timeout: float = 60.0,
) -> TrainState:
    """A run of `agent` on `suite`; the environments' workers are started.

    max_vector_steps: those of the whole run, beyond which the buffer needs no room.
    """
    spec, num_envs = suite.spec, agent.num_envs
    capacity = _capacity(agent, max_vector_steps)
    buffer = RolloutBuffer(spec, num_envs, capacity, seed, agent.extras, agent.device)
    make_envs = partial(suite.make_envs, mode="train", num_workers=num_workers, worker_timeout=worker_timeout)
    envs = shared_out(make_envs, num_envs, RandomEpisodes(spec, num_envs, seed))
    return TrainState(agent, envs, buffer, scheduler)


def build_suite(suite: Choice, seed: int) -> Suite:
    """The suite that a configuration names. Raises BadInput."""
    return make(GROUP_BY_NAME["suite"].find(suite.name), suite.name, suite.config, seed)


def build_agent(config: RunConfig, suite: Suite, device: torch.device, *, learning: bool = True) -> Agent:
    """The agent of a run, newly initialised, on `device`; `learning` False for one that will only play."""
    settings = config.settings
    return make_agent(
        suite.spec,
        {key: Chosen(group.find(choice.name), choice.config) for key, group, choice in config.keyed_choices()},
        num_envs=settings.num_envs or suite.spec.num_tasks,
        seed=settings.seed,
        device=device,
        precision=settings.precision,
        cuda_graphs=settings.cuda_graphs and device.type == "cuda",
        learning=learning,
    )


def build_scheduler(config: RunConfig, suite: Suite) -> TaskScheduler:
    """The scheduler of a run. Raises BadInput for a suite that it cannot schedule."""
    cls = GROUP_BY_NAME["scheduler"].find(config.scheduler.name)
    return make(cls, suite.spec, config.scheduler.config, config.settings.seed)


def require_room(config: RunConfig, agent: Agent) -> None:
    """Raises BadInput if learning with `agent`, its buffer and the running episodes do not fit the memory.

    Also if there are fewer slots than ranks.
    """
    spec, num_envs = agent.spec, agent.num_envs
    if num_envs < WORLD.size:
        raise BadInput(f"num_envs: {num_envs} slots cannot be shared out over {WORLD.size} ranks")
    if agent.device.type == "cpu":
        parameters = sum(value.numel() for value in agent.parameters() if value.requires_grad)
        require_memory(12 * parameters, f"training {parameters:,} parameters")  # gradients and two moments, float32
    capacity = _capacity(agent, config.settings.total_env_steps // num_envs)
    stored = WORLD.per_node * buffer_bytes_of(config, agent)
    require_memory(stored, f"a buffer of {capacity:,} vector steps of {num_envs:,} slots")
    actions = 4 * num_envs * spec.max_episode_steps * math.prod(spec.action_space.shape or ())
    require_memory(stored + actions, f"the buffer with the episodes of {num_envs:,} slots")


def buffer_bytes_of(config: RunConfig, agent: Agent) -> int:
    """Bytes of the buffer of a run."""
    capacity = _capacity(agent, config.settings.total_env_steps // agent.num_envs)
    return buffer_bytes(agent.spec, agent.num_envs, capacity, agent.extras)


def _capacity(agent: Agent, max_vector_steps: int) -> int:
    """Vector steps that the buffer holds; the last rollout may go beyond the run's end."""
    return min(max(1, agent.buffer_size // agent.num_envs), max_vector_steps + agent.rollout_steps)


def build_train_state(config: RunConfig, suite: Suite, agent: Agent) -> TrainState:
    """A run of `agent` with the environments, buffer and scheduler that its configuration names."""
    settings = config.settings
    return make_train_state(
        agent,
        suite,
        build_scheduler(config, suite),
        seed=settings.seed,
        max_vector_steps=settings.total_env_steps // agent.num_envs,
        num_workers=num_workers(config),
        worker_timeout=settings.worker_timeout,
    )


def num_workers(config: RunConfig) -> int:
    """Environment processes of a run, or of one of its ranks; one per core by default."""
    chosen = config.settings.num_workers
    return max(1, available_cores() // WORLD.per_node) if chosen is None else chosen


def choose_device(name: str) -> torch.device:
    """`auto`: the GPU if there is one. Raises BadInput for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("device 'cuda' is not available here; use --device cpu or auto")
    device = torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and WORLD.per_node > torch.cuda.device_count():
        raise BadInput(
            f"{WORLD.per_node} ranks on a machine with {torch.cuda.device_count()} GPU(s); start as many as there are "
            "GPUs (torchrun --nproc-per-node), or use --device cpu"
        )
    return device
