"""Data types that the components of the suite exchange.

Shapes: M tasks, N environment slots, T rows of time, B batch, D observation, A action.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np

from mtrl.errors import BadInput

if TYPE_CHECKING:  # suites need these types too, and worker processes start before torch is imported
    from torch import Tensor

State = dict[str, Any]
"""Nested dict of what a part must keep: leaves are tensors, NumPy arrays or JSON values."""

Metrics = dict[str, "Tensor"]
"""Named values of one update, each (M, ...) per task or a scalar, detached and still on the device."""


@dataclass(frozen=True)
class Chunk:
    """An append-only piece of the replay buffer.

    A complete chunk never changes and its name is unique for its content: later checkpoints link to the file of an
    earlier one. An incomplete chunk is written every time. `tensors` is called only when the chunk must be written.
    """

    name: str  # lower-case words and numbers joined by hyphens, e.g. "rows-000000000000-000000002048"
    complete: bool
    tensors: Callable[[], Mapping[str, Tensor]]


Precision = Literal["float32", "bfloat16"]
"""Of matrix products in networks, see `mtrl.optim.precision`."""

Weights = Literal["averaged", "last"]
"""Of the policy that is evaluated: their average over updates (`mtrl.policies.AveragedPolicy`), or the newest."""

Score = Literal["return", "success"]
"""What an episode is judged by: its undiscounted return of raw rewards, or 1 for a success and 0 without."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task of a suite."""

    name: str
    index: int
    max_episode_steps: int  # env steps until truncation
    num_variations: int | None = None  # distinct episode starts (goals); None: unlimited
    random_return: float | None = None  # return of a uniformly random policy
    human_return: float | None = None  # return of a human, for human-normalised scores
    target_return: float | None = None  # mean return that counts as solved; not read where success is the score


@dataclass(frozen=True, kw_only=True)
class SuiteSpec:
    """M tasks with one observation and one action space."""

    name: str
    tasks: tuple[TaskSpec, ...]
    observation_space: gym.spaces.Box  # of one environment
    action_space: gym.spaces.Box | gym.spaces.Discrete  # of one environment
    action_mask: np.ndarray | None = None  # (M, A) bool, True where legal; discrete suites whose tasks differ
    frame_stack: int = 1  # an observation is this many frames along axis 0, oldest first, zeros before an episode
    score: Score = "return"  # of an episode, for schedulers and reports
    protocol: str  # name of the evaluation protocol
    samples_policy: bool = False  # whether the protocol plays actions drawn from the policy instead of its mode
    settings: Mapping[str, Any] = field(default_factory=dict)  # what the protocol fixes, JSON
    seed_settings: Sequence[str] = ()  # names of those that follow from the run's seed, such as goals
    task_settings: Sequence[str] = ()  # names of those that follow from the choice of tasks

    def __post_init__(self) -> None:
        for index, task in enumerate(self.tasks):
            if task.index != index:
                raise ValueError(f"task {task.name!r} has index {task.index} at position {index}")
        shape = self.observation_space.shape
        if self.frame_stack < 1 or shape[0] % self.frame_stack:
            raise ValueError(f"observations of shape {shape} are no stack of {self.frame_stack} frames")
        if self.action_mask is not None:
            if not isinstance(self.action_space, gym.spaces.Discrete):
                raise BadInput(f"suite {self.name!r}: an action mask needs a discrete action space")
            if self.action_mask.shape != (self.num_tasks, int(self.action_space.n)):
                raise BadInput(
                    f"suite {self.name!r}: action mask {self.action_mask.shape} does not fit {self.num_tasks} tasks "
                    f"with {self.action_space.n} actions"
                )
            if not self.action_mask.any(axis=1).all():
                raise BadInput(f"suite {self.name!r}: a task has no legal action")

    @property
    def num_tasks(self) -> int:
        return len(self.tasks)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame of an observation; of all of it where frames are not stacked."""
        first, *rest = self.observation_space.shape
        return (first // self.frame_stack, *rest)

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    @property
    def max_episode_steps(self) -> int:
        """The longest episode of any task, env steps."""
        return max(task.max_episode_steps for task in self.tasks)

    def scores(self, returns: np.ndarray, successes: np.ndarray) -> np.ndarray:
        """Scores of episodes (or their means, of mean returns and success rates), any shape."""
        return np.asarray(successes if self.score == "success" else returns, np.float64)

    def score_of(self, episode: FinishedEpisode) -> float:
        """The score of one episode."""
        return float(episode.success if self.score == "success" else episode.return_)

    @property
    def target_scores(self) -> np.ndarray | None:
        """Mean score (M,) at which a task counts as solved: 1 where success is the score, else its target return.

        None if a task has no target, or one that is not positive, of which no fraction can be reached.
        """
        if self.score == "success":
            return np.ones(self.num_tasks)
        targets = [task.target_return for task in self.tasks if task.target_return is not None]
        return np.array(targets) if len(targets) == self.num_tasks and min(targets) > 0 else None


class FinishedEpisode(NamedTuple):
    """An episode that ended in this step."""

    slot: int
    task: int
    variation: int  # which start (goal) it had
    return_: float  # undiscounted sum of raw rewards
    length: int  # env steps
    success: bool  # at any step of the episode


@dataclass(frozen=True)
class EnvStep:
    """One transition of every slot.

    `observation` is the one to act on next; where an episode ended it already belongs to the slot's next episode, and
    `final_observation` is the true successor of the transition (in every row).
    """

    task_ids: np.ndarray  # (N,) int64, the task that the transition belongs to
    observation: np.ndarray  # (N, *observation)
    reward: np.ndarray  # (N,) float32, raw
    terminated: np.ndarray  # (N,) bool
    truncated: np.ndarray  # (N,) bool
    final_observation: np.ndarray  # (N, *observation)
    episodes: tuple[FinishedEpisode, ...]


@dataclass(frozen=True)
class ActionStep:
    """The actions of an agent for N observations."""

    action: np.ndarray  # (N, A) float32 or (N,) int64
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)  # stored unread by the buffer, each (N, ...)


@dataclass(frozen=True)
class Batch:
    """Transitions to learn from: leading dimensions (B,) from `sample`, (T, N) from `rollout`."""

    task_ids: Tensor  # int64
    observation: Tensor
    action: Tensor
    reward: Tensor  # float32, raw
    terminated: Tensor  # bool
    truncated: Tensor  # bool
    next_observation: Tensor  # the true successor, also where an episode ended
    shares: Tensor  # (M,) float32, weight of each task's mean loss: its share of the batch, times its loss weight
    counts: tuple[int, ...]  # transitions per task, on all ranks; those of `sample` are sorted by task
    extras: Mapping[str, Tensor] = field(default_factory=dict)  # stored when the agent acted, or added by the agent
    noise: Mapping[str, Tensor] = field(default_factory=dict)  # of this update by purpose, leading dimension B
    part: tuple[int, int] = (0, 1)  # first row and step of the rows here among those of a batch that is shared out

    @property
    def own_counts(self) -> tuple[int, ...]:
        """Transitions per task among the rows here, which are sorted by task."""
        first, step = self.part
        bounds = [-((first - stop) // step) for stop in itertools.accumulate(self.counts, initial=0)]
        return tuple(stop - start for start, stop in itertools.pairwise(bounds))

    def every_kth(self, first: int, step: int) -> Batch:
        """The rows `first`, `first + step`, ...: as many of each task as of any other such part, to within one."""
        rows = self.map_columns(lambda column: column[first::step].contiguous())
        return replace(rows, part=(first, step))

    def columns(self) -> dict[str, Tensor]:
        """Every tensor with a leading batch dimension; extras and noise as `extras.NAME` and `noise.NAME`."""
        plain = {name: getattr(self, name) for name in _COLUMNS}
        extras = {f"extras.{name}": value for name, value in self.extras.items()}
        return plain | extras | {f"noise.{name}": value for name, value in self.noise.items()}

    def with_columns(self, columns: Mapping[str, Tensor]) -> Batch:
        """The batch with other columns, named as in `columns`; shares and counts stay."""
        return replace(
            self,
            **{name: columns[name] for name in _COLUMNS},  # type: ignore[arg-type]
            extras={name: columns[f"extras.{name}"] for name in self.extras},
            noise={name: columns[f"noise.{name}"] for name in self.noise},
        )

    def map_columns(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Applies `function` to every column."""
        return self.with_columns({name: function(value) for name, value in self.columns().items()})

    def weighted(self, loss_weights: np.ndarray) -> Batch:
        """The batch whose losses count with `loss_weights` (M,) beside their shares."""
        return replace(self, shares=self.shares * self.shares.new_tensor(loss_weights))


_COLUMNS = ("task_ids", "observation", "action", "reward", "terminated", "truncated", "next_observation")


class TaskWeights(NamedTuple):
    """How much each task is trained, as its scheduler has it."""

    shares: np.ndarray  # (M,) float64, of new episodes and of a batch; they sum to 1
    loss_weights: np.ndarray  # (M,) float64, factors of the losses, of mean 1


@dataclass(frozen=True)
class Progress:
    """One turn of the training loop, yielded with nothing in flight."""

    env_steps: int  # single-environment steps since the start of the run
    vector_steps: int
    metrics: Metrics  # empty while the agent only collects
    episodes: tuple[FinishedEpisode, ...]
