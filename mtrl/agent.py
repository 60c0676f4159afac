"""What every agent is: it acts, it learns from the buffer, and it can be saved whole.

Shapes: N slots, M tasks, B batch, A action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtrl.aggregation import GradientAggregator
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.optim.cuda_graphs import Replayed
from mtrl.encoders import Encoder
from mtrl.errors import BadInput
from mtrl.networks import Output, PolicyArchitecture
from mtrl.normalization import ReturnNormalizer
from mtrl.optim.parameter_group import OptimizedGroup
from mtrl.policies import ActionHead, Policy
from mtrl.registry import Registry
from mtrl.seeding import load_torch_stream_state, torch_stream
from mtrl.types import Acted, EnvStep, Metrics, State, TaskSuite


@dataclass(frozen=True)
class Parts:
    """Makes the exchangeable parts that a run chose; the agent decides how many it needs and how they connect."""

    suite: TaskSuite
    encoder: Callable[[], Encoder]
    policy: Callable[[int, ActionHead], Policy]  # (in_features, head)
    value_network: Callable[[int, int], PolicyArchitecture]  # (in_features, out_features), of values or Q values
    normalizer: Callable[[], ReturnNormalizer]
    aggregator: Callable[[str], GradientAggregator]  # by the name of the optimised group
    seed: int
    device: torch.device
    record_losses: bool = False  # write down what losses do on a CPU and repeat that
    cuda_graphs: bool = False  # record updates and replay them

    def stream(self, purpose: str) -> torch.Generator:
        """A named generator on the run's device."""
        return torch_stream(self.seed, purpose, device=self.device)


class Agent(nn.Module, ABC):
    """A learner. Constructor: `(parts: Parts, config: Config)`."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Hyperparameters."""

    rollout_steps: int = 1
    """Vector steps between two updates."""
    learns_from_replay: bool = True
    """True: updates on what is stored while the environments step. False: on the last `rollout_steps`, then forgets."""
    buffer_steps: int
    """Capacity of the buffer in vector steps."""
    extras: Mapping[str, tuple[int, ...]] = {}
    """Shapes per row of what `act` stores beside the action."""

    @abstractmethod
    def __init__(self, parts: Parts, config: Any):
        super().__init__()
        self.suite = parts.suite
        self.num_tasks = parts.suite.num_tasks
        self.device = parts.device
        self.cuda_graphs = parts.cuda_graphs

    @abstractmethod
    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> Acted:
        """Actions for observations (N, *observation) of tasks (N,) int64.

        With `explore` False the protocol's deterministic action; it then draws no random number.
        """

    def sample(self, observation: np.ndarray, task_ids: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Actions (N, A) or (N,) drawn from the policy, for protocols that play those (`TaskSuite.samples_policy`).

        All chance comes from the caller's `generator`, on the agent's device; nothing of the agent moves. By default
        the deterministic actions: those of a policy that is.
        """
        return self.act(observation, task_ids, explore=False).action

    @abstractmethod
    def update(self, buffer: RolloutBuffer, task_weights: np.ndarray) -> Metrics:
        """Learns from `buffer`; each task gets its share (M,) of the rows. Empty metrics while only collecting.

        Raises Diverged before a step that would use a value that is not finite. On a GPU the group concerned leaves its
        steps out, and the training loop raises after the update (`OptimizedGroup.check`).
        """

    def observe(self, step: EnvStep) -> None:
        """Takes note of a vector step that has just been stored: what has to see every step once, in time order."""

    @abstractmethod
    def groups(self) -> Mapping[str, OptimizedGroup]:
        """Every optimised group by name."""

    @abstractmethod
    def streams(self) -> Mapping[str, torch.Generator]:
        """Every generator of the agent by name."""

    def state(self) -> State:
        """Everything that changes: modules (normalisers and counters among them), optimisers, generators."""
        return {
            "modules": dict(self.state_dict()),
            "groups": {name: group.state() for name, group in self.groups().items()},
            "streams": {name: generator.get_state() for name, generator in self.streams().items()},
        }

    def load_state(self, state: State) -> None:
        """Takes up a state written by `state`. Raises KeyError, RuntimeError or ValueError where it does not fit."""
        self.load_state_dict(state["modules"])
        for name, group in self.groups().items():
            group.load_state(state["groups"][name])
        for name, generator in self.streams().items():
            load_torch_stream_state(generator, state["streams"][name])

    def recording(self, learn_from: Callable[..., Metrics], *generators: torch.Generator) -> Replayed | None:
        """`learn_from`, which draws from `generators`, to be recorded and replayed (see `mtrl.optim.cuda_graphs`).

        None where the run does not want that. Raises BadInput where a group takes tasks apart, which reads how many
        rows they have.
        """
        if not self.cuda_graphs:
            return None
        for name, group in self.groups().items():
            if group.takes_tasks_apart:
                raise BadInput(f"cuda_graphs: updates of the {name} take tasks apart and cannot be recorded")
        return Replayed(learn_from, generators)

    def __deepcopy__(self, memo: Any) -> Agent:
        """Raises TypeError: optimisers and recordings hold on to the parameters of the original."""
        raise TypeError("an agent cannot be copied; build another one and load its state")

    def to_device(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)


agent_types: Registry[Agent] = Registry("agent")


def actor_diagnostics(network: Output) -> dict[str, Tensor]:
    """The diagnostics of the actor's architecture as by-products of its loss (`TaskLosses.rows`)."""
    return {f"actor/{name}": values for name, values in network.diagnostics.items()}


@contextmanager
def seeded_construction(seed: int, purpose: str) -> Iterator[None]:
    """Initial weights come from a named stream: `torch.nn` draws from the global generator, which is put back."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds every GPU's generator too.
        torch.default_generator.manual_seed(torch_stream(seed, purpose).initial_seed())
        yield
