"""Trained agents from run directories, for evaluation and notebooks. Shapes: N rows, D observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mtrl.agent import Agent
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.checkpoints.store import CheckpointStore
from mtrl.config.schema import RunConfig, parse_yaml
from mtrl.errors import BadInput
from mtrl.optim.parameter_group import ParameterGroup
from mtrl.registry import discover_plugins, nearest, trust_module
from mtrl.runs.run_directory import RunDirectory
from mtrl.training.build import build_agent, build_suite, choose_device
from mtrl.types import ActionStep, Metrics, SuiteSpec


@dataclass(frozen=True)
class TrainedAgent:
    """An agent with its weights and what it was trained on."""

    agent: Agent
    spec: SuiteSpec
    config: RunConfig
    checkpoint: str  # "step 200000" or "best checkpoint (step 180000)"

    def predict(self, observation: np.ndarray, task: str | int) -> np.ndarray:
        """The deterministic action for one observation (D,) or several (N, D) of a task, by name or index.

        Raises BadInput for an unknown task.
        """
        names = self.spec.task_names
        if isinstance(task, str):
            if task not in names:
                raise BadInput(f"unknown task {task!r}{nearest(task, names)}; known: {list(names)}")
            task = names.index(task)
        if not 0 <= task < len(names):
            raise BadInput(f"task {task} is outside 0 to {len(names) - 1}")
        space = self.spec.observation_space
        rows = np.asarray(observation, space.dtype).reshape(-1, *space.shape)
        action = self.agent.act(rows, np.full(len(rows), task), explore=False).action
        return action if np.ndim(observation) > len(space.shape) else action[0]


def load_agent(run_dir: str | Path, checkpoint: str = "latest", plugins: Sequence[str] = ()) -> TrainedAgent:
    """See `mtrl.load`."""
    discover_plugins()
    for module in plugins:
        trust_module(module)
    return load_trained(run_dir, checkpoint, plugins)


def load_trained(run_dir: str | Path, checkpoint: str, plugins: Sequence[str] | None) -> TrainedAgent:
    """A run's agent; `checkpoint` is "latest", "best" or a step. Raises BadInput."""
    run = RunDirectory.open(run_dir)
    config = parse_yaml(run.config(), str(run.path / "config.yaml"), plugins=plugins)
    if checkpoint not in ("latest", "best") and not checkpoint.isdecimal():
        raise BadInput(f"checkpoint {checkpoint!r}: must be 'latest', 'best' or a step")
    which = int(checkpoint) if checkpoint.isdecimal() else checkpoint
    stored = CheckpointStore(run.checkpoints).load(which, with_chunks=False)  # type: ignore[arg-type]
    suite = build_suite(config.suite, config.settings.seed)
    # What was trained on a GPU can be looked at without one.
    agent = build_agent(config, suite, choose_device("cpu" if config.settings.device == "cpu" else "auto"))
    try:
        agent.load_state(stored.state["agent"])
    except (LookupError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise BadInput(f"checkpoint {stored.path} does not fit its config.yaml: {error}") from error
    label = f"step {stored.step}"
    if stored.kind == "best":
        label = f"best checkpoint (step {stored.step}, chosen on goals of this protocol)"
    return TrainedAgent(agent.eval(), suite.spec, config, label)


class TaskNames(Agent):
    """An agent on another suite whose tasks it knows by name. Raises BadInput if it does not."""

    def __init__(self, agent: Agent, spec: SuiteSpec):
        nn.Module.__init__(self)
        self.spec, self.num_tasks, self.device = spec, spec.num_tasks, agent.device
        self.agent = agent
        known = agent.spec.task_names
        for name in spec.task_names:
            if name not in known:
                raise BadInput(f"the agent was not trained on task {name!r} of suite {spec.name!r}; it knows {known}")
        self._index = np.array([known.index(name) for name in spec.task_names])

    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        return self.agent.act(observation, self._index[task_ids], explore)

    def sample(self, observation: np.ndarray, task_ids: np.ndarray, generator: torch.Generator) -> np.ndarray:
        return self.agent.sample(observation, self._index[task_ids], generator)

    def update(self, buffer: RolloutBuffer, task_weights: np.ndarray) -> Metrics:
        raise TypeError("an agent on loan to another suite does not learn")

    def groups(self) -> Mapping[str, ParameterGroup]:
        return {}

    def streams(self) -> Mapping[str, torch.Generator]:
        return {}
