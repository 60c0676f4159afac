"""Trained agents from run directories, for evaluation and notebooks. Shapes: N rows, D observation."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from mtrl.agent import Agent
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.checkpoints import tensor_file
from mtrl.checkpoints.files import read_small_file
from mtrl.checkpoints.json_text import parse_json
from mtrl.checkpoints.store import CheckpointStore
from mtrl.config.schema import RunConfig, parse_yaml
from mtrl.errors import BadInput
from mtrl.evaluation.protocol_policy import mode_rule, sampling_rule
from mtrl.optim.parameter_group import ParameterGroup
from mtrl.optim.torch_defaults import torch_defaults
from mtrl.registry import discover_plugins, nearest, trust_module
from mtrl.runs.run_directory import EXPORT_FACTS, EXPORTED_WEIGHTS, MAX_TEXT_BYTES, RunDirectory
from mtrl.seeding import torch_stream
from mtrl.training.build import build_agent, build_suite, choose_device
from mtrl.types import ActionStep, Metrics, SuiteSpec, TaskWeights, Weights


@dataclass(frozen=True)
class TrainedAgent:
    """An agent with its weights and what it was trained on."""

    agent: Agent
    spec: SuiteSpec
    config: RunConfig
    checkpoint: str  # "step 200000" or "best checkpoint (step 180000)"
    env_steps: int  # of training, of the checkpoint
    generator: torch.Generator = field(repr=False)  # of `predict`, on the agent's device

    @torch_defaults()
    def predict(
        self,
        observation: ArrayLike,
        task: str | int | Sequence[str | int] | np.ndarray,
        deterministic: bool | None = None,
    ) -> np.ndarray:
        """The action for one observation (*observation,), or the actions for several (N, *observation).

        task: by name or index; for several observations also one per row. deterministic: the policy's mode, or a sample
        from it by a generator of this object's own, which loading seeds; by default as the suite's protocol plays.
        Raises BadInput for another shape or another kind of number than that of the observation space, and for unknown
        tasks.
        """
        rows = self._rows(observation)
        task_ids = self._task_ids(task, len(rows))
        if deterministic is None:
            deterministic = not self.spec.samples_policy
        rule = mode_rule(self.agent) if deterministic else sampling_rule(self.agent, self.generator)
        actions = rule(rows, task_ids)
        return actions if np.ndim(observation) > len(self.spec.observation_space.shape) else actions[0]

    def _rows(self, observation: ArrayLike) -> np.ndarray:
        """A copy (N, *observation) in the observation space's dtype. Raises BadInput."""
        space = self.spec.observation_space
        try:
            given = np.asarray(observation)
        except (ValueError, TypeError) as error:
            raise BadInput(f"the observation is no array: {str(error).partition(chr(10))[0]}") from error
        expected = f"expected {space.shape} or (N, {', '.join(map(str, space.shape))}), {space.dtype}"
        found = f"an observation of shape {given.shape}, {given.dtype}"
        rows = given[None] if given.shape == space.shape else given
        if rows.shape[1:] != space.shape or not len(rows):
            raise BadInput(f"{found}; {expected}")
        # Pixels scaled to [0, 1] would be black as integers.
        if rows.dtype.kind not in ("iu" if space.dtype.kind in "iu" else "iuf"):
            raise BadInput(f"{found}; {expected}")
        if space.dtype.kind in "iu" and not (space.low <= rows).all() & (rows <= space.high).all():
            raise BadInput(f"{found} with values {rows.min()} to {rows.max()}; they do not fit the space's bounds")
        with np.errstate(over="ignore"):
            copy = np.array(rows, space.dtype)
        if not np.isfinite(copy).all():
            raise BadInput(f"{found} with values that are not finite")
        return copy

    def _task_ids(self, task: str | int | Sequence[str | int] | np.ndarray, num_rows: int) -> np.ndarray:
        """(N,) int64. Raises BadInput."""
        try:
            given = [task] * num_rows if isinstance(task, str) else list(task)  # type: ignore[arg-type]
        except TypeError:  # a number, or an array of no dimension
            given = [task] * num_rows
        if len(given) != num_rows:
            raise BadInput(f"{len(given)} tasks for {num_rows} observations; name one, or one for each")
        return np.array([self._task_index(own) for own in given], np.int64)

    def _task_index(self, task: Any) -> int:
        names = self.spec.task_names
        if isinstance(task, str):
            if task not in names:
                raise BadInput(f"unknown task {task!r}{nearest(task, names)}; known: {list(names)}")
            return names.index(task)
        try:
            index = operator.index(task)
        except TypeError:
            raise BadInput(f"task {task!r}: must be a name or an index") from None
        if isinstance(task, bool) or not 0 <= index < len(names):
            raise BadInput(f"task {task} is outside 0 to {len(names) - 1}")
        return index


@torch_defaults()
def load_agent(
    run_dir: str | Path,
    checkpoint: str = "latest",
    plugins: Sequence[str] = (),
    weights: Weights = "averaged",
    policy_part: str | None = None,
) -> TrainedAgent:
    """See `mtrl.load`."""
    discover_plugins()
    for module in plugins:
        trust_module(module)
    return load_trained(run_dir, checkpoint, plugins, weights, policy_part=policy_part)


def load_trained(
    run_dir: str | Path,
    checkpoint: str,
    plugins: Sequence[str] | None,
    weights: Weights = "averaged",
    device: str | None = None,
    policy_part: str | None = None,
) -> TrainedAgent:
    """The agent of a run, or of an exported policy; `checkpoint` is "latest", "best" or a step. Raises BadInput.

    device: "cpu", "cuda" or "auto"; None: as in the run, or the CPU where its GPU is missing. policy_part: of the
    policy, if not all of it is played.
    """
    if weights not in get_args(Weights):
        raise BadInput(f"weights {weights!r}: must be 'averaged' or 'last'")
    run = RunDirectory.open(run_dir)
    config = parse_yaml(run.config(), str(run.path / "config.yaml"), plugins=plugins)
    if checkpoint not in ("latest", "best") and not checkpoint.isdecimal():
        raise BadInput(f"checkpoint {checkpoint!r}: must be 'latest', 'best' or a step")
    is_export = (run.path / EXPORT_FACTS).is_file()
    if is_export and (checkpoint, weights, policy_part) != ("latest", "averaged", None):
        raise BadInput(f"{run.path} is an exported policy: it has no other checkpoint, weights or part to choose")
    stored = _exported(run.path) if is_export else _checkpoint(run, checkpoint)
    suite = build_suite(config.suite, config.settings.seed)
    # What was trained on a GPU can be looked at without one.
    chosen = device or ("cpu" if config.settings.device == "cpu" else "auto")
    agent = build_agent(config, suite, choose_device(chosen), learning=False)
    try:
        stored.load_into(agent)
    except (LookupError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise BadInput(f"{stored.name} does not fit its config.yaml: {error}") from error
    label = stored.label
    if weights == "last":
        agent.use_last_weights()
        label += ", weights of the last update"
    if policy_part is not None:
        agent.play_part(policy_part)
        label += f", {policy_part} policy"
    generator = torch_stream(config.settings.seed, "predict", device=agent.device)
    return TrainedAgent(agent.eval(), suite.spec, config, label, stored.env_steps, generator)


_MAX_EXPORT_BYTES = 2**32


class _Stored(NamedTuple):
    """Weights as they lie on the disk."""

    name: str
    label: str
    env_steps: int
    load_into: Callable[[Agent], object]


def _checkpoint(run: RunDirectory, which: str) -> _Stored:
    """Raises BadInput."""
    step_or_kind: Any = int(which) if which.isdecimal() else which
    stored = CheckpointStore(run.checkpoints).load(step_or_kind, with_chunks=False)
    label = f"step {stored.step}"
    if stored.kind == "best":
        label = f"best checkpoint (step {stored.step}, chosen on goals of this protocol)"
    name = f"checkpoint {stored.path}"
    return _Stored(name, label, stored.step, lambda agent: agent.load_state(stored.state["agent"]))


def _exported(folder: Path) -> _Stored:
    """The policy that `mtrl export --format weights` wrote. Raises BadInput."""
    try:
        facts = parse_json(read_small_file(folder / EXPORT_FACTS, MAX_TEXT_BYTES))
        digest, label, env_steps = facts["files"].get(EXPORTED_WEIGHTS), str(facts["checkpoint"]), facts["env_steps"]
        part = facts["policy_part"]
    except (LookupError, TypeError, AttributeError, OSError) as error:
        raise BadInput(f"{folder / EXPORT_FACTS} is not what an export writes") from error
    try:
        content = read_small_file(folder / EXPORTED_WEIGHTS, _MAX_EXPORT_BYTES)
    except OSError as error:
        raise BadInput(f"{folder} has no {EXPORTED_WEIGHTS}; write one by mtrl export --format weights") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise BadInput(f"{folder / EXPORTED_WEIGHTS} is damaged: it is not what {EXPORT_FACTS} says")
    tensors = tensor_file.decode(content)

    def load_into(agent: Agent) -> None:
        average = agent.averaged_policy()
        if average is None:
            raise ValueError("its agent keeps no AveragedPolicy")
        for name, module in (("encoder.", average.encoder), ("policy.", average.policy)):
            module.load_state_dict(
                {key.removeprefix(name): own for key, own in tensors.items() if key.startswith(name)}
            )
        if part is not None:
            agent.play_part(part)

    return _Stored(str(folder / EXPORTED_WEIGHTS), label, env_steps, load_into)


class TaskNames(Agent):
    """An agent on another suite whose tasks it knows by name, with the same observations and actions.

    Raises BadInput if it does not know them, or if they differ.
    """

    def __init__(self, agent: Agent, spec: SuiteSpec):
        nn.Module.__init__(self)
        self.spec, self.num_tasks, self.device = spec, spec.num_tasks, agent.device
        self.agent = agent
        known = agent.spec.task_names
        for name in spec.task_names:
            if name not in known:
                raise BadInput(f"the agent was not trained on task {name!r} of suite {spec.name!r}; it knows {known}")
        refuse_other_spaces(agent.spec, spec, "the agent")
        self._index = np.array([known.index(name) for name in spec.task_names])

    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        return self.agent.act(observation, self._index[task_ids], explore)

    def sample(self, observation: np.ndarray, task_ids: np.ndarray, generator: torch.Generator) -> np.ndarray:
        return self.agent.sample(observation, self._index[task_ids], generator)

    def update(self, buffer: RolloutBuffer, task_weights: TaskWeights) -> Metrics:
        raise TypeError("an agent on loan to another suite does not learn")

    def groups(self) -> Mapping[str, ParameterGroup]:
        return {}

    def streams(self) -> Mapping[str, torch.Generator]:
        return {}


def refuse_other_spaces(trained: SuiteSpec, played: SuiteSpec, who: str) -> None:
    """Raises BadInput if `who` was trained with other observations or actions than those of the suite `played`."""
    for what in ("observation", "action"):
        before, now = (_kind(getattr(spec, f"{what}_space")) for spec in (trained, played))
        if before != now:
            raise BadInput(f"suite {played.name!r} has {what}s {now}, {who} was trained with {before}")


def _kind(space: gym.Space[Any]) -> str:
    """Shape and dtype, or the number of discrete actions: what networks depend on."""
    return f"0 to {space.n - 1}" if isinstance(space, gym.spaces.Discrete) else f"{space.shape} {space.dtype}"
