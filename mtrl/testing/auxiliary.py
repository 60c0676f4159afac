"""The contract of an auxiliary task, as a function that a plug-in's own tests call.

Shapes: B batch, M tasks.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from mtrl.aggregation import Mean, Parameters, TaskLosses, task_gradients
from mtrl.auxiliary import AuxiliaryContext, AuxiliaryTask
from mtrl.encoders import Encoder
from mtrl.errors import BadInput
from mtrl.faults import WrongResult
from mtrl.networks import Output, PolicyArchitecture
from mtrl.networks.hard_sharing.mlp import MLP
from mtrl.optim.parameter_group import Auxiliary, ParameterGroup
from mtrl.per_task import mean_per_task
from mtrl.policies import ActionHead, make_policy_gradient_head, make_soft_head
from mtrl.policies.policy import Single
from mtrl.seeding import seeded_construction, stream, torch_stream
from mtrl.testing.architecture import check_config
from mtrl.testing.attributes import differences, leaves
from mtrl.testing.generators import global_generators_untouched
from mtrl.types import Batch, SuiteSpec, TaskSpec

COUNTS = ((4,), (4, 4, 4), (1, 6, 2), (0, 7, 0))
"""Rows per task that are tried: one task, equal and unequal shares, tasks without rows."""
SPACES: tuple[tuple[gym.spaces.Box, gym.spaces.Box | gym.spaces.Discrete], ...] = (
    (gym.spaces.Box(0, 255, (2, 12, 12), np.uint8), gym.spaces.Discrete(3)),
    (gym.spaces.Box(-1, 1, (5,), np.float32), gym.spaces.Discrete(3)),
    (gym.spaces.Box(-1, 1, (5,), np.float32), gym.spaces.Box(-1, 1, (2,), np.float32)),
)
"""Observations and actions that are tried; a task may refuse some with BadInput, not all."""
HEADS: tuple[Callable[[SuiteSpec], ActionHead], ...] = (make_soft_head, make_policy_gradient_head)
"""Action heads, of SAC and PPO, with which a task that trains the policy is tried; it may refuse one likewise."""


def check_auxiliary(cls: type[AuxiliaryTask], config: Any = None) -> None:
    """Raises AssertionError where an auxiliary task breaks the contract of `AuxiliaryTask`.

    `config` is an instance of its Config (default: its defaults).
    """
    who = f"{cls.__module__}.{cls.__qualname__}"
    check_config(cls)
    assert issubclass(cls.Config, AuxiliaryTask.Config), f"{who}: Config does not derive from AuxiliaryTask.Config"
    assert cls.trains == "encoder" or not cls.learns_features, f"{who}: trains the policy; set learns_features = False"
    settings = cls.Config() if config is None else config
    refusals = []
    cases = list(itertools.product(SPACES, HEADS if cls.trains == "policy" else HEADS[:1]))
    for spaces, make_head in cases:
        make = functools.partial(_Learner, cls, settings, spaces, make_head)
        try:
            make(1)
        except BadInput as error:
            refusals.append(str(error))
            continue
        with global_generators_untouched(who):
            for counts in COUNTS:
                _check_losses(f"{who} ({len(counts)} tasks with {counts} rows)", make, counts)
            _check_state(who, make)
    assert len(refusals) < len(cases), f"{who}: refuses images and vectors, discrete and continuous: {refusals[-1]}"


class _FlatEncoder(Encoder):
    """A linear layer on the flat observation."""

    def __init__(self, observation_space: gym.spaces.Box, config: Any):
        super().__init__(observation_space, config)
        self.out_features = 6
        self.linear = nn.Linear(int(np.prod(observation_space.shape)), self.out_features)

    def forward(self, observation: Tensor) -> Tensor:
        return self.linear(observation.float().flatten(1) / 16)


class _Learner(nn.Module):
    """A value function on an encoder, a policy if the task trains it, and the task beside them."""

    def __init__(
        self,
        cls: type[AuxiliaryTask],
        config: Any,
        spaces: Any,
        make_head: Callable[[SuiteSpec], ActionHead],
        num_tasks: int,
        seed: int = 1,
    ):
        super().__init__()
        names = [f"task-{index}" for index in range(num_tasks)]
        tasks = tuple(TaskSpec(name=name, index=index, max_episode_steps=9) for index, name in enumerate(names))
        spec = SuiteSpec(
            name="check", tasks=tasks, observation_space=spaces[0], action_space=spaces[1], protocol="check"
        )
        self.spec = spec
        with seeded_construction(seed, "auxiliary check"):
            self.encoder = _FlatEncoder(spaces[0], None)
            self.head = nn.Linear(self.encoder.out_features, 1)
            self.policy: Single | None = None
            if cls.trains == "policy":
                self.policy = Single(self._architecture, self.encoder.out_features, make_head(spec), Single.Config())
            encoder: Any = self.encoder if self.policy is None else None
            task = cls(AuxiliaryContext(spec, encoder, cls.__name__, self.policy, has_values=True), config)
        self.auxiliary = nn.ModuleDict({"task": task})
        self.task = [task]  # in a list: registered once
        aggregator = Mean(num_tasks, Mean.Config(), torch_stream(seed, "aggregator"))
        self.group = ParameterGroup(
            "check",
            self,
            aggregator,
            task_names=names,
            learning_rate=1e-2,
            max_grad_norm=1.0,
            encoder=self.encoder,
            value_error=self.value_error,
            auxiliaries={"task": Auxiliary(task, "auxiliary.task.", torch_stream(seed, "auxiliary"))},
        )

    def _architecture(self, in_features: int, out_features: int, *, num_tasks: int | None = None) -> PolicyArchitecture:
        return MLP(in_features, out_features, num_tasks or self.spec.num_tasks, MLP.Config(width=8, depth=1))

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(observation)
        return features, self.head(features).squeeze(1)

    def losses(self, parameters: Parameters, batch: Batch) -> TaskLosses:
        features, values = self.group.bind(self, parameters)(batch.observation)
        errors = mean_per_task((values - batch.reward).square(), batch.task_ids, self.spec.num_tasks)
        if self.policy is None:
            return TaskLosses(errors, features=features, outputs=(Output(values, representation=features),))
        policy = self.group.bind(self.policy, parameters, "policy.")(features, batch.task_ids)
        return TaskLosses(errors, features=features, outputs=(policy.network,), distribution=policy.distribution)

    def value_error(self, parameters: Parameters, observation: Tensor, tasks: Tensor, returns: Tensor) -> Tensor:
        return (self.group.bind(self, parameters)(observation)[1] - returns).square()

    def batch(self, counts: Sequence[int], seed: int) -> Batch:
        """Random transitions sorted by task, with the sequences that the task reads."""
        numbers, rows, horizon = stream(seed, "auxiliary check"), sum(counts), max(1, self.group.horizon)

        def drawn(space: gym.Space[Any], *shape: int) -> Tensor:
            whole = isinstance(space, gym.spaces.Discrete) or space.dtype == np.uint8
            high = int(space.n) if isinstance(space, gym.spaces.Discrete) else 256
            size = (*shape, *(space.shape or ()))
            values = numbers.integers(high, size=size) if whole else numbers.uniform(-1, 1, size)
            return torch.from_numpy(np.asarray(values).astype(space.dtype or np.float32))

        spec = self.spec
        following = drawn(spec.observation_space, rows, horizon)
        action = drawn(spec.action_space, rows, horizon)
        reward = torch.from_numpy(numbers.integers(-1, 2, (rows, horizon)).astype(np.float32))
        ended = torch.from_numpy(numbers.random((rows, horizon)) < 0.2)
        valid = torch.cat([torch.ones(rows, 1).bool(), ~ended[:, :-1].cummax(1).values], dim=1)
        sequence = {"action": action, "observation": following, "reward": reward, "terminated": ended, "valid": valid}
        return Batch(
            task_ids=torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)),
            observation=drawn(spec.observation_space, rows),
            action=action[:, 0],
            reward=reward[:, 0],
            terminated=ended[:, 0],
            truncated=torch.zeros(rows, dtype=torch.bool),
            next_observation=following[:, 0],
            shares=torch.tensor(counts) / rows,
            counts=tuple(counts),
            extras={"return": reward[:, 0], **({f"sequence_{name}": own for name, own in sequence.items()})},
        )


def _check_losses(who: str, make: Callable[..., _Learner], counts: Sequence[int]) -> None:
    learner = make(len(counts))
    group, (task,) = learner.group, learner.task
    batch = group.with_columns(group.on_rollout(learner.batch(counts, 1)))
    for source, columns in (("on_rollout", batch.extras), ("columns", batch.noise)):
        for name, column in columns.items():
            if len(column) != len(batch.reward):
                raise AssertionError(f"{who}: {source} gives {name.split('.', 2)[2]!r} with another length")

    def losses(parameters: Parameters, batch: Batch) -> TaskLosses:
        result = learner.losses(parameters, batch)
        own = group.auxiliary_losses_of("task", group.auxiliaries["task"], result, parameters, batch)
        return TaskLosses(own)

    before = leaves(learner.state_dict())
    try:
        first = losses(group.parameters, batch).losses
    except WrongResult as error:
        raise AssertionError(f"{who}: {error}") from error
    assert torch.isfinite(first).all(), f"{who}: forward gives losses that are not finite: {first.tolist()}"
    assert torch.equal(first, losses(group.parameters, batch).losses), f"{who}: forward gives other losses each time"
    assert leaves(learner.state_dict()) == before, f"{who}: forward changes the task: {_changed(before, learner)}"
    absent = first.detach()[torch.tensor(counts) == 0]
    assert not absent.any(), f"{who}: a task without samples has a loss: {first.tolist()}"
    # The aggregators' two paths: one backward pass, and one gradient per task.
    summed = torch.autograd.grad(first.sum(), list(group.parameters.values()), allow_unused=True)
    per_task, _ = task_gradients(losses, batch, group.parameters, len(counts), group.aggregator.vectorized)
    for (name, parameter), whole in zip(group.parameters.items(), summed, strict=True):
        expected = torch.zeros_like(parameter) if whole is None else whole
        found = per_task[name].sum(0)
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5), (
            f"{who}: the gradients of the tasks do not add up to that of the sum at {name!r}: a task's loss depends on "
            "samples of others"
        )
        if name.startswith("auxiliary.") and len(counts) == 1:
            assert whole is not None, f"{who}: no gradient reaches {name.removeprefix('auxiliary.task.')!r}"
    if len(counts) == 1:
        trained = {
            name.partition(".")[0]
            for (name, _), whole in zip(group.parameters.items(), summed, strict=True)
            if whole is not None and bool(whole.any())
        }
        assert "encoder" in trained or not task.learns_features, (
            f"{who}: no gradient reaches the encoder; set learns_features = False if that is meant"
        )
        assert "policy" in trained or task.trains != "policy", f"{who}: no gradient reaches the policy, which it trains"


def _check_state(who: str, make: Callable[..., _Learner]) -> None:
    """Saved and loaded, it goes on as before."""
    original, restored = (make(3, seed) for seed in (1, 2))

    def step(learner: _Learner, seed: int) -> None:
        learner.group.step(learner.losses, learner.group.on_rollout(learner.batch((4, 4, 4), seed)))

    step(original, 3)
    restored.load_state_dict(original.state_dict())
    restored.group.load_state(original.group.state())
    for learner in (original, restored):
        step(learner, 4)
    left, right = (leaves(learner.state_dict()) for learner in (original, restored))
    assert left == right, f"{who}: after state and load_state it goes on differently: {differences(left, right)}"


def _changed(before: Any, learner: _Learner) -> list[str]:
    return differences(before, leaves(learner.state_dict()))
