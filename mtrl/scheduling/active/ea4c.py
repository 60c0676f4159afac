"""A learnt sampler of tasks (EA4C; Sharma et al., 2017, arXiv:1702.06053): a small recurrent actor-critic, on the CPU.

A decision is taken whenever episodes have ended. The meta-learner sees which tasks these were, the share of each task
in all episodes so far, and a_i / b_i of every task; the probabilities of its policy are the shares. The slots draw
their next tasks from them, so an episode of task i is an action i, and its reward is

    lambda m_i + (1 - lambda) mean of (1 - m_j) over the three worst tasks j

after the episode. It learns by advantage actor-critic over a few decisions, back through time.

The paper takes one decision per episode of one environment. Here the episodes that end in the same vector step are
parallel samples of one decision: its loss is the mean over them. An episode counts for the decision in force when it
ends; the slot drew its task one episode earlier, which differs by how far the policy moved meanwhile. The likelihood is
that of what the slots draw, the share that every task keeps (`min_share`) included. Nothing is drawn in here. In the
mode `weight` no slot draws from the policy either: the mean over its distribution takes the place of that over the
episodes that ended.

Shapes: M tasks, T decisions, W units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from mtrl.scheduling.active.active_scheduler import ActiveScheduler
from mtrl.scheduling.scheduler import schedulers
from mtrl.seeding import seeded_construction
from mtrl.types import State, SuiteSpec

WORST_TASKS = 3
"""Tasks whose progress the second half of the reward is about."""

Memory = tuple[Tensor, Tensor]
"""What a recurrent network carries on: hidden and cell state, each (1, W)."""


@schedulers.register("ea4c")
class EA4C(ActiveScheduler):
    """A recurrent actor-critic meta-learner whose policy gives the shares."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ActiveScheduler.Config):
        distance_weight: Annotated[float, Field(ge=0, le=1)] = 0.7  # lambda of the reward
        discount: Annotated[float, Field(ge=0, lt=1)] = 0.9  # per decision
        decisions_per_update: PositiveInt = 10  # also how far back in time gradients reach
        learning_rate: PositiveFloat = 3e-3  # Adam
        entropy_weight: NonNegativeFloat = 0.01  # of the policy's entropy in the loss
        max_grad_norm: PositiveFloat = 1.0  # global norm
        width: PositiveInt = 64  # units per layer

    def __init__(self, spec: SuiteSpec, config: Config, seed: int):
        super().__init__(spec, config, seed)
        with seeded_construction(seed, "task scheduler"):
            self.network = MetaNetwork(self.num_tasks, config.width)
        self._optimizer = torch.optim.Adam(self.network.parameters(), config.learning_rate)
        self._memory = self.network.no_memory()
        self._first_memory = self.network.no_memory()  # before the first decision of `_inputs`
        # Decisions since the last update, and what came of each but the newest.
        self._inputs: list[np.ndarray] = []  # each (3 M,)
        self._fractions: list[np.ndarray] = []  # (M,) of the episodes that ended
        self._rewards: list[np.ndarray] = []  # (M,) of an episode of each task

    def shares(self, distances: np.ndarray, ended: np.ndarray) -> np.ndarray:
        fractions = ended / ended.sum()
        if self._inputs:
            # Weights of losses draw no task. What a decision brings is then the mean over its own distribution.
            self._fractions.append(fractions if self.mode == "sample" else self._weights)
            self._rewards.append(meta_rewards(distances, self.config.distance_weight))
        seen = np.concatenate([fractions, self._played / self._played.sum(), 1 - distances]).astype(np.float32)
        before = self._memory
        with torch.inference_mode():
            log_policy, values, memory = self.network(torch.from_numpy(seen)[None], before)
        self._memory = memory[0].clone(), memory[1].clone()  # ordinary tensors again
        if len(self._inputs) == self.config.decisions_per_update:
            self._learn(float(values))
            self._first_memory = before
            self._inputs, self._fractions, self._rewards = [], [], []
        self._inputs.append(seen)
        policy = log_policy[0].double().exp().numpy()
        return policy / policy.sum()

    def _learn(self, next_value: float) -> None:
        """One step of advantage actor-critic on the decisions kept; `next_value` is of the state after them."""
        loss = actor_critic_loss(
            self.network,
            inputs=torch.from_numpy(np.stack(self._inputs)),
            memory=self._first_memory,
            fractions=torch.from_numpy(np.stack(self._fractions)).float(),
            rewards=torch.from_numpy(np.stack(self._rewards)).float(),
            next_value=next_value,
            config=self.config,
        )
        self.network.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_grad_norm)
        self._optimizer.step()

    def state(self) -> State:
        named = dict(self.network.named_parameters())
        return super().state() | {
            "network": {name: value.detach().clone() for name, value in named.items()},
            "optimizer": {name: dict(self._optimizer.state.get(value, {})) for name, value in named.items()},
            "memory": list(self._memory),
            "first_memory": list(self._first_memory),
            "inputs": list(self._inputs),
            "fractions": list(self._fractions),
            "rewards": list(self._rewards),
        }

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self.network.load_state_dict(state["network"])
        for name, parameter in self.network.named_parameters():
            moments = state["optimizer"][name]
            self._optimizer.state[parameter] = {key: value.clone() for key, value in moments.items()}
        hidden, cell = state["memory"]
        self._memory = hidden.clone(), cell.clone()
        hidden, cell = state["first_memory"]
        self._first_memory = hidden.clone(), cell.clone()
        for name, own in (("inputs", self._inputs), ("fractions", self._fractions), ("rewards", self._rewards)):
            own[:] = [np.array(row) for row in state[name]]


class MetaNetwork(nn.Module):
    """A layer, an LSTM, and heads for the policy over tasks and the value."""

    def __init__(self, num_tasks: int, width: int):
        super().__init__()
        self.num_tasks = num_tasks
        self.features = nn.Linear(3 * num_tasks, width)
        self.lstm = nn.LSTM(width, width)
        self.head = nn.Linear(width, num_tasks + 1)
        # The first policy is uniform.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def no_memory(self) -> Memory:
        zeros = torch.zeros(1, self.lstm.hidden_size)
        return zeros, zeros.clone()

    def forward(self, inputs: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Memory]:
        """Inputs (T, 3 M) in order of time -> log-probabilities (T, M), values (T,), memory after them."""
        outputs, memory = self.lstm(torch.relu(self.features(inputs)), memory)
        heads = self.head(outputs)
        return heads[:, : self.num_tasks].log_softmax(-1), heads[:, self.num_tasks], memory


def meta_rewards(distances: np.ndarray, distance_weight: float) -> np.ndarray:
    """Reward (M,) of an episode of each task: lambda m_i + (1 - lambda) mean over the three worst of (1 - m_j)."""
    worst = np.sort(distances)[-WORST_TASKS:]
    return distance_weight * distances + (1 - distance_weight) * (1 - worst.mean())


def actor_critic_loss(
    network: MetaNetwork,
    *,
    inputs: Tensor,
    memory: Memory,
    fractions: Tensor,
    rewards: Tensor,
    next_value: float,
    config: EA4C.Config,
) -> Tensor:
    """Loss of T decisions with inputs (T, 3 M), of whose episodes `fractions` (T, M) had the `rewards` (T, M)."""
    log_policy, values, _ = network(inputs, memory)
    # What the slots draw from: (1 - min_share) policy + min_share / M, as logarithms, of which some may be of zero.
    of_policy, of_uniform = torch.tensor([1 - config.min_share, config.min_share / network.num_tasks]).log()
    log_drawn = torch.logaddexp(log_policy + of_policy, of_uniform.expand_as(log_policy))
    mean_rewards = (fractions * rewards).sum(-1)
    following = torch.empty(len(inputs))
    return_ = next_value
    for decision in reversed(range(len(inputs))):
        following[decision] = config.discount * return_
        return_ = float(mean_rewards[decision] + following[decision])
    advantages = rewards + (following - values.detach())[:, None]  # (T, M) of an episode of each task
    policy_loss = -(fractions * log_drawn * advantages).sum(-1).mean()
    value_loss = 0.5 * (mean_rewards + following - values).square().mean()
    entropy = -(log_policy.exp() * log_policy).sum(-1).mean()
    return policy_loss + value_loss - config.entropy_weight * entropy
