"""The interface of agents: they act, learn from the buffer, and can be saved.

Shapes: N slots, M tasks, B batch, A action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtrl.aggregation import GradientAggregator
from mtrl.auxiliary import AuxiliaryContext, AuxiliaryMaker
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.encoders import Encoder
from mtrl.errors import BadInput
from mtrl.faults import WrongResult
from mtrl.networks import PolicyArchitecture
from mtrl.normalization import ReturnNormalizer
from mtrl.optim.parameter_group import Auxiliary, ParameterGroup, ValueErrors
from mtrl.optim.precision import autocast
from mtrl.policies import ActionHead, AveragedPolicy, Policy
from mtrl.registry import Registry
from mtrl.seeding import load_torch_stream_state, torch_stream
from mtrl.types import ActionStep, EnvStep, Metrics, Precision, State, SuiteSpec, TaskWeights


@dataclass(frozen=True)
class Components:
    """Makes the exchangeable components of a run; the agent decides how many it needs and how they connect."""

    spec: SuiteSpec
    num_envs: int
    encoder: Callable[[], Encoder]
    policy: Callable[[int, ActionHead], Policy]  # (in_features, head)
    value_network: Callable[[int, int], PolicyArchitecture]  # (in_features, out_features), of values or Q values
    normalizer: Callable[[float], ReturnNormalizer]  # (discount of the agent)
    aggregator: Callable[[str], GradientAggregator]  # by the name of the parameter group
    seed: int
    device: torch.device
    precision: Precision = "float32"
    cuda_graphs: bool = False
    auxiliaries: Mapping[str, AuxiliaryMaker] = field(default_factory=dict)  # by name
    learning: bool = True  # False: the agent will only play, and loads nothing that only learning needs

    def stream(self, purpose: str) -> torch.Generator:
        """A named generator on the run's device."""
        return torch_stream(self.seed, purpose, device=self.device)

    def parameter_group(
        self,
        name: str,
        module: nn.Module,
        *,
        learning_rate: float,
        max_grad_norm: float,
        encoder: Encoder | None = None,
        policy: Policy | None = None,
        value_error: ValueErrors | None = None,
    ) -> ParameterGroup:
        """The parameters of `module`, which must be on the run's device already, with an aggregator of their own.

        encoder, policy: the parts of `module` that auxiliary tasks train with this group. They become parts of `module`
        too, and losses of the group must return the features and the policy's distribution. value_error: of an agent's
        value function, for value replay.
        """
        trained = {name for name, part in (("encoder", encoder), ("policy", policy)) if part is not None}
        tasks = {
            own: maker.make(
                AuxiliaryContext(
                    self.spec,
                    encoder,  # type: ignore[arg-type]
                    own,
                    policy,
                    self.device,
                    self.learning,
                    has_values=value_error is not None,
                )
            )
            for own, maker in self.auxiliaries.items()
            if maker.trains in trained
        }
        if tasks:
            module.add_module("auxiliary", nn.ModuleDict(tasks).to(self.device))
        return ParameterGroup(
            name,
            module,
            self.aggregator(name),
            task_names=self.spec.task_names,
            learning_rate=learning_rate,
            max_grad_norm=max_grad_norm,
            precision=self.precision,
            encoder=encoder,
            value_error=value_error,
            auxiliaries={
                own: Auxiliary(task, f"auxiliary.{own}.", self.stream(f"auxiliary {own}"))
                for own, task in tasks.items()
            },
            cuda_graphs=self.cuda_graphs,
        )


class Agent(nn.Module, ABC):
    """A learner. Constructor: `(components: Components, config: Config)`."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters."""

    group_gauges: Mapping[str, bool] = {}
    """Whether the losses of each parameter group have a gauge (`TaskLosses.gauge`).

    Groups named here can be given an aggregator of their own.
    """
    rollout_steps: int = 1
    """Vector steps between two updates."""
    learns_from_replay: bool = True
    """True: updates on what is stored while the environments step. False: on the last `rollout_steps`, then forgets."""
    buffer_size: int
    """Capacity of the buffer in transitions (env steps)."""
    extras: Mapping[str, tuple[int, ...]] = {}
    """Shapes per transition of what `act` stores beside the action."""
    reads_rewards: bool = True
    """False: it learns from observations alone, as a student of teachers does."""
    learns_until: int | None = None
    """Env steps after which its learning rate is 0; None: it never is. A longer run is refused."""

    @abstractmethod
    def __init__(self, components: Components, config: Any):
        super().__init__()
        self.spec = components.spec
        self.num_tasks = components.spec.num_tasks
        self.num_envs = components.num_envs
        self.device = components.device
        self.autocast = autocast(components.precision, components.device)
        self.env_steps = 0
        """Env steps that the agent has explored, for what changes with them; `act` counts them."""

    @abstractmethod
    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        """Actions for observations (N, *observation) of tasks (N,) int64.

        With `explore` False the protocol's deterministic action, of the averaged policy where the agent keeps one; it
        then draws no random number.
        """

    def sample(self, observation: np.ndarray, task_ids: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Actions (N, A) or (N,) sampled from the policy, for protocols that use those (`SuiteSpec.samples_policy`).

        All randomness comes from the caller's `generator`, on the agent's device; the agent does not change. By default
        the deterministic actions, for deterministic policies.
        """
        return self.act(observation, task_ids, explore=False).action

    def averaged_policy(self) -> AveragedPolicy | None:
        """What evaluations play; None if the agent keeps no average."""
        return next((module for module in self.modules() if isinstance(module, AveragedPolicy)), None)

    def use_last_weights(self) -> None:
        """Evaluations play the weights of the last update, not an average over updates."""
        average = self.averaged_policy()
        if average is not None:
            average.follow()

    def play_part(self, part: str) -> None:
        """Evaluations play a part of the policy, such as Distral's common one. Raises BadInput for an unknown part."""
        policies = [module for module in self.modules() if isinstance(module, Policy)]
        if not policies:
            raise BadInput(f"policy_part {part!r}: this agent has no policy with parts")
        for policy in policies:
            policy.play(part)

    @abstractmethod
    def update(self, buffer: RolloutBuffer, task_weights: TaskWeights) -> Metrics:
        """Learns from `buffer`; each task gets its share of a batch (`RolloutBuffer.sample`), and its losses count with
        its loss weight (`Batch.weighted`). Empty metrics while only collecting.

        Raises Diverged before a step that would use a value that is not finite. On a GPU the group concerned skips its
        steps, and the training loop raises after the update (`ParameterGroup.check`).
        """

    def on_env_step(self, step: EnvStep) -> None:
        """Called once with every vector step that was stored, in time order."""

    def inputs(self) -> Mapping[str, str]:
        """Hashes by name of what the agent learns from beside its environments, such as teachers.

        Checkpoints record them, and a run goes on with the same ones only. By default those of its auxiliary tasks.
        """
        tasks = [auxiliary.task for group in self.groups().values() for auxiliary in group.auxiliaries.values()]
        return {name: value for task in tasks for name, value in task.inputs().items()}

    @abstractmethod
    def groups(self) -> Mapping[str, ParameterGroup]:
        """Every parameter group by name."""

    @abstractmethod
    def streams(self) -> Mapping[str, torch.Generator]:
        """Every generator of the agent by name."""

    def state(self) -> State:
        """Everything that changes: modules (normalizers and counters among them), optimisers, generators."""
        return {
            "modules": dict(self.state_dict()),
            "groups": {name: group.state() for name, group in self.groups().items()},
            "streams": {name: generator.get_state() for name, generator in self.streams().items()},
            "env_steps": self.env_steps,
        }

    def load_state(self, state: State) -> None:
        """Loads a state written by `state`. Raises KeyError, RuntimeError or ValueError where it does not fit."""
        self.load_state_dict(state["modules"])
        for name, group in self.groups().items():
            group.load_state(state["groups"][name])
        for name, generator in self.streams().items():
            load_torch_stream_state(generator, state["streams"][name])
        self.env_steps = int(state["env_steps"])

    def to_device(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)


def refuse_wrong_action(agent: Agent, action: np.ndarray, num_rows: int) -> None:
    """Raises WrongResult for what is no action of each of `num_rows` observations."""
    expected = (num_rows, *(agent.spec.action_space.shape or ()))
    if not isinstance(action, np.ndarray) or action.shape != expected:
        found = f"actions {action.shape}" if isinstance(action, np.ndarray) else type(action).__name__
        raise WrongResult(f"returned {found}, expected actions {expected}")


agent_types: Registry[Agent] = Registry("agent", Agent)
