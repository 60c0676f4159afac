"""The contract of an agent, as a function that a learner's own tests call.

Shapes: N slots, M tasks, A action.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from torch import nn

from mtrl.agent import Agent
from mtrl.checkpoints.store import CheckpointStore
from mtrl.errors import BadInput, Diverged
from mtrl.faults import WrongResult
from mtrl.scheduling.fixed import Fixed
from mtrl.seeding import stream, torch_stream
from mtrl.testing.architecture import check_config
from mtrl.testing.attributes import differences, leaves
from mtrl.testing.counting_suite import CountingSuite
from mtrl.testing.generators import global_generators_untouched
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from mtrl.types import Progress

NUM_ENVS = 4
MAX_VECTOR_STEPS = 20_000
"""Vector steps within which an agent has to learn something."""


def check_agent(cls: type[Agent], config: Any = None) -> None:
    """Raises AssertionError where an agent breaks the contract of `Agent`, on continuous and on discrete actions.

    `config` is an instance of its Config (default: its defaults; one that learns after few steps makes the check
    quick). An agent may refuse one kind of action space in its constructor with BadInput.
    """
    who = f"{cls.__module__}.{cls.__qualname__}"
    check_config(cls)
    settings = cls.Config() if config is None else config
    refusals = []
    for suite_name in CountingSuite.suite_names:
        suite = CountingSuite(suite_name, CountingSuite.Config(), 1)
        try:
            make_agent(cls, settings, suite.spec)
        except BadInput as error:
            refusals.append(str(error))
            continue
        case = _Case(f"{who} on {suite_name!r}", cls, settings, suite)
        with global_generators_untouched(case.who):
            try:
                case.check_declarations()
                case.check_acting()
                case.check_learning_and_resume()
                case.check_loss_weights()
                case.check_divergence()
            except WrongResult as error:
                raise AssertionError(f"{case.who}: it {error}") from error
    assert len(refusals) < len(CountingSuite.suite_names), f"{who}: it refuses every kind of action space: {refusals}"


class _Case:
    """One agent on one suite."""

    def __init__(self, who: str, cls: type[Agent], config: Any, suite: CountingSuite):
        self.who = who
        self.cls = cls
        self.config = config
        self.suite = suite
        self.spec = suite.spec

    def make(self, seed: int = 1) -> Agent:
        return make_agent(self.cls, self.config, self.spec, seed, num_envs=NUM_ENVS)

    def check_declarations(self) -> None:
        agent = self.make()
        assert agent.rollout_steps >= 1, f"{self.who}: rollout_steps is {agent.rollout_steps}"
        assert agent.learns_from_replay or agent.buffer_size >= NUM_ENVS * agent.rollout_steps, (
            f"{self.who}: a buffer of {agent.buffer_size} env steps cannot hold {agent.rollout_steps} steps of "
            f"{NUM_ENVS} environments"
        )
        assert isinstance(agent, nn.Module)
        assert agent.groups(), f"{self.who}: groups() is empty"
        for name, group in agent.groups().items():
            own = {id(parameter) for parameter in agent.parameters()}
            lost = [key for key, parameter in group.parameters.items() if id(parameter) not in own]
            assert not lost, f"{self.who}: group {name!r} optimises {lost}, which are no parameters of the agent"

    def check_acting(self) -> None:
        agent = self.make()
        generator = stream(1, "check agent")
        for num_rows in (1, self.spec.num_tasks, 2 * self.spec.num_tasks + 1):
            observation = generator.normal(size=(num_rows, *self.spec.observation_space.shape)).astype(np.float32)
            task_ids = np.arange(num_rows) % self.spec.num_tasks
            for explore in (True, False):
                action_step = agent.act(observation, task_ids, explore)
                self._check_action(action_step.action, task_ids, f"act(explore={explore})")
                if explore:
                    self._check_extras(agent, action_step.extras, num_rows)
        before = leaves(agent)
        drawn, redrawn = (agent.sample(observation, task_ids, torch_stream(1, "check agent")) for _ in range(2))
        self._check_action(drawn, task_ids, "sample")
        assert np.array_equal(drawn, redrawn), f"{self.who}: sample draws from something else than the generator given"
        changed = differences(before, leaves(agent))
        assert not changed, f"{self.who}: sample changes the agent: {'; '.join(changed)}"
        action = agent.act(observation, task_ids, explore=False).action
        again = agent.act(observation, task_ids, explore=False).action
        changed = differences(before, leaves(agent))
        assert not changed, f"{self.who}: act with explore=False changes the agent: {'; '.join(changed)}"
        assert np.array_equal(action, again), f"{self.who}: act with explore=False is not deterministic"

    def _check_action(self, action: np.ndarray, task_ids: np.ndarray, what: str) -> None:
        how = f"{self.who}: {what}"
        space = self.spec.action_space
        shape = (len(task_ids), *(space.shape or ()))
        assert isinstance(action, np.ndarray), f"{how} gives a {type(action).__name__}, not an array"
        assert action.shape == shape, f"{how} gives actions of shape {action.shape}, not {shape}"
        if isinstance(space, gym.spaces.Discrete):
            assert action.dtype == np.int64, f"{how} gives {action.dtype} actions, not int64"
            assert self.spec.action_mask is not None
            known = (action >= 0) & (action < space.n)
            legal = known & self.spec.action_mask[task_ids, np.where(known, action, 0)]
            assert legal.all(), f"{how} gives action {action[~legal][0]}, illegal in task {task_ids[~legal][0]}"
        else:
            assert action.dtype == np.float32, f"{how} gives {action.dtype} actions, not float32"
            assert (np.abs(action) <= 1).all(), f"{how} gives actions beyond [-1, 1], or none at all: {action[0]}"

    def _check_extras(self, agent: Agent, extras: Any, num_rows: int) -> None:
        shapes = {name: (num_rows, *shape) for name, shape in agent.extras.items()}
        found = {name: value.shape for name, value in extras.items()}
        assert found == shapes, f"{self.who}: act gives extras of {found}; `extras` declares {shapes}"

    def check_learning_and_resume(self) -> None:
        """It learns; saved and loaded into a fresh agent, both go on bit for bit."""
        state = make_train_state(self.make(), self.suite)
        run = training_loop(state, NUM_ENVS * MAX_VECTOR_STEPS)
        progress = self._until_it_learns(run)
        for _ in range(2):
            self._check_metrics(progress)
            progress = self._until_it_learns(run)
        next(run)  # in the middle of a rollout, if it learns from whole ones
        with tempfile.TemporaryDirectory() as folder:
            store = CheckpointStore(Path(folder))
            try:
                store.save(state.env_steps, state.state(), state.buffer.chunks(), info={})
            except TypeError as error:
                raise AssertionError(f"{self.who}: its state cannot be saved: {error}") from error
            checkpoint = store.load("latest")
            resumed = make_train_state(self.make(seed=2), self.suite, seed=2)
            resumed.load_state(checkpoint.state, checkpoint.chunks())
        self._check_same("state() and load_state() lose", state.agent, resumed.agent)
        continued = training_loop(resumed, NUM_ENVS * MAX_VECTOR_STEPS)
        for _ in range(3):
            left, right = (leaves(self._until_it_learns(of).metrics) for of in (run, continued))
            assert left == right, f"{self.who}: after load_state it learns otherwise: {differences(left, right)}"
        self._check_same("after load_state it learns otherwise:", state.agent, resumed.agent)

    def check_loss_weights(self) -> None:
        """The same episodes and batches with other loss weights lead to other parameters."""

        def learnt(*weights: float) -> dict[str, object]:
            scheduler = Fixed(self.spec, Fixed.Config(mode="weight", weights=weights), 1)
            state = make_train_state(self.make(), self.suite, 1, scheduler)
            self._until_it_learns(training_loop(state, NUM_ENVS * MAX_VECTOR_STEPS))
            return leaves(dict(state.agent.named_parameters()))

        tasks = range(1, self.spec.num_tasks + 1)
        assert learnt(*(1.0 for _ in tasks)) != learnt(*map(float, tasks)), (
            f"{self.who}: update takes no notice of the loss weights; see Batch.weighted"
        )

    def _until_it_learns(self, run: Iterator[Progress]) -> Progress:
        for progress in run:
            if progress.metrics:
                return progress
        raise AssertionError(f"{self.who}: update gave no metrics within {MAX_VECTOR_STEPS} vector steps")

    def _check_metrics(self, progress: Progress) -> None:
        """What the training loop leaves unsaid: it refuses other types and shapes."""
        for name, value in progress.metrics.items():
            assert not value.requires_grad, f"{self.who}: metric {name!r} is not detached"
            # NaN is what a task without samples has (`nan_where_absent`); some task has samples.
            unknown = value.isinf().any() or value.isnan().all()
            assert not unknown, f"{self.who}: metric {name!r} is not finite: {value.tolist()}"

    def _check_same(self, fault: str, left: Agent, right: Agent) -> None:
        found = differences(leaves(left), leaves(right))
        assert not found, f"{self.who}: {fault} {'; '.join(found)}"

    def check_divergence(self) -> None:
        """A reward that is not a number stops the run before it changes the networks; where no reward is read, an
        observation."""
        state = make_train_state(self.make(), self.suite)
        add = state.buffer.add
        poisoned = [False]

        def add_poison(observation: np.ndarray, action_step: Any, step: Any) -> None:
            if poisoned[0] and state.agent.reads_rewards:
                step = dataclasses.replace(step, reward=np.full_like(step.reward, np.nan))
            elif poisoned[0]:
                observation = np.full_like(observation, np.nan)
            add(observation, action_step, step)

        state.buffer.add = add_poison  # type: ignore[method-assign]
        run = training_loop(state, NUM_ENVS * MAX_VECTOR_STEPS)
        self._until_it_learns(run)
        state.buffer.clear()
        poisoned[0] = True
        before = leaves(dict(state.agent.named_parameters()))
        try:
            for _ in range(3 * state.agent.rollout_steps):  # the buffer is empty in the first
                next(run)
        except Diverged:
            pass
        else:
            raise AssertionError(f"{self.who}: learning from what is NaN does not raise Diverged")
        changed = differences(before, leaves(dict(state.agent.named_parameters())))
        assert not changed, f"{self.who}: it raises Diverged after it changed {'; '.join(changed)}"
