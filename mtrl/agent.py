"""What every agent is: it acts, it learns from the buffer, and it can be saved whole.

Shapes: N slots, M tasks, B batch, A action.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mtrl.aggregation import GradientAggregator, JacobianAggregator, LossFunction, Parameters, TaskLosses
from mtrl.buffer import RolloutBuffer
from mtrl.cuda_graphs import Replayed
from mtrl.encoders import Encoder
from mtrl.errors import BadInput, Diverged
from mtrl.matrix_products import torchs_products
from mtrl.networks import Output, PolicyArchitecture, SelfUpdating
from mtrl.normalization import ReturnNormalizer
from mtrl.policies import ActionHead, Policy
from mtrl.registry import Registry
from mtrl.seeding import torch_stream
from mtrl.types import Acted, Batch, EnvStep, Metrics, State, TaskSuite


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
        """Takes up a state written by `state`. Raises KeyError or RuntimeError where it does not fit."""
        self.load_state_dict(state["modules"])
        for name, group in self.groups().items():
            group.load_state(state["groups"][name])
        for name, generator in self.streams().items():
            load_generator_state(generator, state["streams"][name])

    def recording(self, learn_from: Callable[..., Metrics], *generators: torch.Generator) -> Replayed | None:
        """`learn_from`, which draws from `generators`, to be recorded and replayed (see `mtrl.cuda_graphs`).

        None where the run does not want that. Raises BadInput where a group takes tasks apart, which reads how many
        rows they have.
        """
        if not self.cuda_graphs:
            return None
        for name, group in self.groups().items():
            if group.takes_tasks_apart:
                raise BadInput(f"cuda_graphs: updates of the {name} take tasks apart and cannot be recorded")
        return Replayed(learn_from, generators)

    def to_device(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)


GENERATOR_STATE_BYTES = (5056, 16)
"""Of torch's generators on the processor and on a GPU."""

agent_types: Registry[Agent] = Registry("agent")


class OptimizedGroup:
    """Parameters that share an optimiser, an aggregator and one gradient-norm bound."""

    def __init__(
        self,
        name: str,
        modules: nn.Module,
        aggregator: GradientAggregator,
        learning_rate: float,
        max_grad_norm: float,
        adam_epsilon: float = 1e-5,
    ):
        self.name = name
        self.parameters: Parameters = dict(modules.named_parameters())
        self.aggregator = aggregator
        aggregator.vectorized = all(getattr(part, "works_under_vmap", True) for part in modules.modules())
        self.takes_tasks_apart = isinstance(aggregator, JacobianAggregator) or not aggregator.vectorized
        self.max_grad_norm = max_grad_norm
        self.self_updating = [part for part in modules.modules() if isinstance(part, SelfUpdating)]
        apart = {parameter for part in self.self_updating for parameter in part.parameters()}
        optimized = [parameter for parameter in self.parameters.values() if parameter not in apart]
        device = optimized[0].device
        on_gpu = device.type == "cuda"
        # What recorded kernels read of the host's numbers, they read for good.
        rate: float | Tensor = torch.tensor(learning_rate, device=device) if on_gpu else learning_rate
        self.optimizer = torch.optim.Adam(optimized, lr=rate, eps=adam_epsilon, fused=True, capturable=on_gpu)
        # Of every task's loss and of the gradient's norm, on a GPU.
        self.not_finite = torch.zeros(aggregator.num_tasks + 1, dtype=torch.bool, device=device) if on_gpu else None

    def step(self, loss_of: LossFunction, batch: Batch) -> TaskLosses:
        """One gradient step on per-task losses; the only place that writes gradients of networks.

        Raises Diverged, before the step, if a loss or gradient is not finite. On a GPU, where that would have to be
        waited for, this step and all that follow do nothing instead, and `check` raises.
        """
        with torchs_products() if self.takes_tasks_apart and len(set(batch.counts)) > 1 else nullcontext():
            result = self.aggregator.backward(loss_of, batch, self.parameters)
        norm = nn.utils.get_total_norm(self._laid_out_gradients(), foreach=True)
        # Before clipping, which would spread a value that is not finite over all gradients.
        finite = torch.isfinite(norm)
        if self.not_finite is not None:
            self.not_finite |= torch.cat([torch.isfinite(result.losses), finite.view(1)]).logical_not()
        elif not bool(finite & torch.isfinite(result.losses).all()):
            self._name_what_is_not_finite(torch.isfinite(result.losses).logical_not())
        excess = ((norm + 1e-6) / self.max_grad_norm).clamp(min=1)  # how many times too long the gradient is
        left_out = None if self.not_finite is None else self.not_finite.any()
        step_scaled(self.optimizer, excess, left_out)
        for part in self.self_updating:
            for parameter in part.parameters():
                assert parameter.grad is not None
                clipped = parameter.grad / excess
                parameter.grad = clipped if left_out is None else torch.where(left_out, 0, clipped)
            part.step()
        return result

    def _laid_out_gradients(self) -> list[Tensor]:
        """All gradients, each with the strides of its parameter and memory of its own.

        Fused optimisers read and write parameter, gradient and moments as flat memory. What `torch.autograd.grad` and
        aggregators give may be transposed, or one tensor for two parameters.
        """
        taken: set[int] = set()
        gradients = []
        for parameter in self.parameters.values():
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.stride() != parameter.stride() or gradient.data_ptr() in taken:
                gradient = parameter.grad = torch.empty_like(parameter).copy_(gradient)
            taken.add(gradient.data_ptr())
            gradients.append(gradient)
        return gradients

    def check(self) -> None:
        """Raises Diverged if a loss or gradient on a GPU was not finite since the last state was loaded."""
        if self.not_finite is not None and bool(self.not_finite.any()):
            bad = self.not_finite[:-1]
            if not bool(bad.any()):
                raise Diverged(f"{self.name} gradient is not finite")  # steps since may have written others
            self._name_what_is_not_finite(bad)

    @property
    def learning_rate(self) -> float:
        """Of the steps to come; not part of the state, its owner sets it again after a restart."""
        return float(self.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, learning_rate: float) -> None:
        for parameters in self.optimizer.param_groups:
            if isinstance(parameters["lr"], Tensor):
                parameters["lr"].fill_(learning_rate)
            else:
                parameters["lr"] = learning_rate

    def _name_what_is_not_finite(self, losses: Tensor) -> None:
        """`losses` (M,) bool."""
        bad = losses.nonzero().flatten().tolist()
        if bad:
            raise Diverged(f"{self.name} loss is not finite for the task(s) with index {bad}")
        names = [
            name
            for name, parameter in self.parameters.items()
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
        ]
        raise Diverged(f"{self.name} gradient is not finite: {names or 'its norm overflows'}")

    def state(self) -> State:
        """Optimiser moments by parameter name, and the aggregator's state."""
        return {"optimizer": optimizer_state(self.optimizer, self.parameters), "aggregator": self.aggregator.state()}

    def load_state(self, state: State) -> None:
        load_optimizer_state(self.optimizer, self.parameters, state["optimizer"])
        self.aggregator.load_state(state["aggregator"])
        if self.not_finite is not None:
            self.not_finite.zero_()


def load_generator_state(generator: torch.Generator, state: Tensor) -> None:
    """Puts a generator where another one was; where that drew on another kind of device, on a stream of its own there.

    The two draw other numbers. Seeded by where the other one stood, so that a second resume draws the same. Raises
    ValueError for what is no generator's state.
    """
    if not isinstance(state, Tensor) or state.dtype != torch.uint8 or state.numel() not in GENERATOR_STATE_BYTES:
        raise ValueError("not the state of a random generator")
    if state.shape == generator.get_state().shape:
        generator.set_state(state)
    else:
        digest = hashlib.sha256(state.numpy().tobytes()).digest()
        generator.manual_seed(int.from_bytes(digest[:7], "little"))


def step_scaled(optimizer: torch.optim.Optimizer, divisor: Tensor | None, left_out: Tensor | None) -> None:
    """A step of a fused optimiser with gradients divided by `divisor` (), and none if `left_out` () bool is true.

    It does both as it reads the gradients, as torch.amp.GradScaler asks it to: no pass over them of its own.
    """
    flags = {"grad_scale": divisor, "found_inf": left_out}
    vars(optimizer).update({name: None if flag is None else flag.float() for name, flag in flags.items()})
    try:
        optimizer.step()
    finally:
        for name in flags:
            delattr(optimizer, name)


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Parameters) -> State:
    """An optimiser's moments by parameter name; empty before the first step."""
    return {name: dict(optimizer.state[value]) for name, value in parameters.items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, parameters: Parameters, state: State) -> None:
    """Takes up moments written by `optimizer_state`. Raises KeyError for a parameter that it lacks."""
    optimizer.state.clear()
    for name, value in parameters.items():
        # Copied: the optimiser writes in place, and the caller keeps its state. Moments lie as their parameter does.
        if stored := state[name]:
            optimizer.state[value] = {
                key: torch.empty_like(value if moment.shape == value.shape else moment, device=value.device).copy_(
                    moment
                )
                for key, moment in stored.items()
            }


def bind(module: nn.Module, parameters: Parameters, prefix: str = "") -> Callable[..., Any]:
    """`module` as a function, of a tuple, that reads its parameters from `parameters`, where `prefix` marks them.

    They stand in for all of the module's parameters, or are these themselves.
    """
    first = next((name for name in parameters if name.startswith(prefix)), None)
    if first is None or module.get_parameter(first.removeprefix(prefix)) is parameters[first]:
        # Called as it is: `functional_call` walks all modules, 0.3 ms per call for two small critics.
        return lambda inputs: module(*inputs)
    own = {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
    return partial(functional_call, module, own)


def actor_diagnostics(network: Output) -> dict[str, Tensor]:
    """The diagnostics of the actor's architecture as by-products of its loss (`TaskLosses.rows`)."""
    return {f"actor/{name}": values for name, values in network.diagnostics.items()}


def polyak_update(target: Iterable[Tensor], online: Iterable[Tensor], rate: float) -> None:
    """target <- (1 - rate) target + rate online, in place."""
    with torch.no_grad():
        torch._foreach_lerp_(list(target), list(online), rate)


@contextmanager
def seeded_construction(seed: int, purpose: str) -> Iterator[None]:
    """Initial weights come from a named stream: `torch.nn` draws from the global generator, which is put back."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds every GPU's generator too.
        torch.default_generator.manual_seed(torch_stream(seed, purpose).initial_seed())
        yield
