"""A run's next updates in memory: where measures of relations get gradients, losses and observations from.

The run goes on from its checkpoint exactly as a resume would, for a few updates, and nothing is written. So every agent
gives what it learns from: SAC its replay buffer, PPO rollouts of its policy. The run's own random streams decide, and
the same checkpoint gives the same numbers. Shapes: M tasks, N probes, P parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mtrl.agent import Agent
from mtrl.checkpoints.store import CheckpointStore
from mtrl.config.schema import RunConfig, parse_yaml
from mtrl.errors import BadInput
from mtrl.optim.parameter_group import ParameterGroup
from mtrl.policies import AveragedPolicy
from mtrl.runs.run_directory import RunDirectory
from mtrl.training.build import build_agent, build_suite, build_train_state, choose_device
from mtrl.training.restore import refuse_another_suite, restore
from mtrl.training.run import training_loop
from mtrl.training.train_state import TrainState
from mtrl.types import Batch, SuiteSpec

MAX_WAIT = 20
"""Rollouts, or env steps per slot, that may pass before the first update; a run that needs more is too young."""


@dataclass(frozen=True)
class Continuation:
    """A run that goes on from a checkpoint."""

    path: Path
    config: RunConfig
    state: TrainState
    step: int  # env steps of training at the checkpoint

    @property
    def agent(self) -> Agent:
        return self.state.agent

    @property
    def spec(self) -> SuiteSpec:
        return self.agent.spec

    @property
    def num_tasks(self) -> int:
        return self.spec.num_tasks

    def group(self, name: str | None) -> ParameterGroup:
        """A parameter group by name, the agent's first for None. Raises BadInput."""
        groups = self.agent.groups()
        if not groups or (name is not None and name not in groups):
            raise BadInput(
                f"parameter_group: the agent of {self.path} has no parameter group {name!r}; it has {[*groups]}"
            )
        return next(iter(groups.values())) if name is None else groups[name]

    def updates(self, number: int, group: ParameterGroup) -> Iterator[Batch]:
        """Trains for `number` updates and yields the last batch of `group` after each, sorted by task.

        Raises BadInput for a run that has not learned yet.
        """
        group.keeps_last_batch = True
        left, waited = number, 0
        for progress in training_loop(self.state, 2**62):
            if progress.metrics:
                yield group.last_losses()[1]
                left -= 1
            else:
                waited += 1
            if not left:
                return
            if left == number and waited >= MAX_WAIT * self.agent.rollout_steps:
                raise BadInput(f"{self.path} is too young: at {self.step} env steps it has not learned anything yet")

    def averaged_policy(self) -> AveragedPolicy:
        """The policy that evaluations play. Raises BadInput for an agent of another kind."""
        average = self.agent.averaged_policy()
        if average is None:
            raise BadInput(f"the agent of {self.path} keeps no AveragedPolicy; measures of gradients can do without")
        return average

    def refuse_missing_tasks(self, counts: Tensor) -> None:
        """counts (M,): samples of each task. Raises BadInput where a task has none."""
        names = [name for name, count in zip(self.spec.task_names, counts.tolist(), strict=True) if not count]
        if names:
            raise BadInput(f"{self.path} is too young: it has no data of {', '.join(names)}")


@contextmanager
def continued(run_dir: Path, checkpoint: str = "latest", plugins: Sequence[str] = ()) -> Iterator[Continuation]:
    """The run with its environments, which are closed at the end. Raises BadInput."""
    run = RunDirectory.open(run_dir)
    config = parse_yaml(run.config(), str(run.path / "config.yaml"), plugins=plugins)
    suite = build_suite(config.suite, config.settings.seed)
    if suite.spec.num_tasks < 2:
        raise BadInput(f"{run_dir} is of the one task {suite.spec.task_names[0]}; relations need two at least")
    stored = CheckpointStore(run.checkpoints).load("latest" if checkpoint == "latest" else int(checkpoint))
    refuse_another_suite(stored, suite)
    agent = build_agent(config, suite, choose_device("cpu" if config.settings.device == "cpu" else "auto"))
    threads = torch.get_num_threads()
    state = build_train_state(config, suite, agent)
    try:
        restore(state, stored)
        yield Continuation(run.path, config, state, stored.step)
    finally:
        state.envs.close()
        torch.set_num_threads(threads)
