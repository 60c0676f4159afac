"""The one environment interface: N slots that play the M tasks of a suite, stepped together.

Contract: auto-reset in the same step. Where an episode ends, `EnvStep.observation` already is the first one of the
slot's next episode and `EnvStep.final_observation` the last one of the old. Which task and variation a slot plays next
is decided here, in the main process, before the step is sent. An episode is a function of (task, variation, actions),
so a running one is saved as these three and restored by replay; a backend of which that is not true says so.

Shapes: N slots, M tasks, A action.
"""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, ParamSpec, Self, TypeVar

import gymnasium as gym
import numpy as np

from mtrl.env.episodes import IDLE, EpisodeSource
from mtrl.errors import Diverged, MtrlError, WorkerFailure
from mtrl.faults import WrongResult, describe_fault
from mtrl.types import EnvStep, FinishedEpisode, State, SuiteSpec

P = ParamSpec("P")
T = TypeVar("T")

LARGEST_VALUE = 1e15
"""Bound of observations, rewards and actions: the square of a return of 1000 such rewards is finite in float32."""


class RawStep(NamedTuple):
    """What a backend returns for one step of all slots; rows of idle slots are not read."""

    observation: np.ndarray  # (N, *observation) after auto-reset
    reward: np.ndarray  # (N,) float32
    terminated: np.ndarray  # (N,) bool
    truncated: np.ndarray  # (N,) bool
    success: np.ndarray  # (N,) bool, at this step
    final_observation: np.ndarray  # (N, *observation) before auto-reset


class MultiTaskVectorEnv(ABC):
    """N slots over the tasks of `suite`. Use as a context manager, or call `close`."""

    replays_exactly: bool = True
    """Whether an episode is a function of (task, variation, actions), so that `load_state` restores running ones.

    Where it is not, `load_state` leaves them and every slot begins its next one.
    """

    def __init__(self, spec: SuiteSpec, num_envs: int, episodes: EpisodeSource):
        self.spec = spec
        self.num_envs = num_envs
        self.episodes = episodes
        self.task_ids = np.full(num_envs, IDLE, np.int64)  # (N,) the task each slot plays now
        self._variations = np.zeros(num_envs, np.int64)
        self._returns = np.zeros(num_envs, np.float64)
        self._lengths = np.zeros(num_envs, np.int64)
        self._successes = np.zeros(num_envs, bool)
        space = spec.action_space
        action_shape = () if isinstance(space, gym.spaces.Discrete) else space.shape
        self._action_dtype = np.int64 if isinstance(space, gym.spaces.Discrete) else np.float32
        # Actions since each slot's reset, for the replay.
        self._actions = np.zeros((num_envs, spec.max_episode_steps, *action_shape), self._action_dtype)
        self._limits = np.array([task.max_episode_steps for task in spec.tasks])
        self.playing_slots = np.zeros(0, np.int64)  # (n,) the slots that play, in order
        self._sent: np.ndarray | None = None
        self._observations = (num_envs, *spec.observation_space.shape), spec.observation_space.dtype

    # What a backend implements.

    @abstractmethod
    def _start(self, tasks: np.ndarray, variations: np.ndarray) -> np.ndarray:
        """Begins an episode in every slot (IDLE: none) and returns the first observations (N, *observation)."""

    @abstractmethod
    def _send(self, action: np.ndarray, next_tasks: np.ndarray, next_variations: np.ndarray) -> None:
        """Begins one step; a slot whose episode ends goes on with its next task and variation (IDLE: rests)."""

    @abstractmethod
    def _recv(self) -> RawStep:
        """Waits for the step. Raises WorkerFailure."""

    @abstractmethod
    def _replay(self, tasks: np.ndarray, variations: np.ndarray, actions: list[np.ndarray]) -> np.ndarray:
        """Begins the given episodes, plays each slot's actions (t_n, A) and returns the observations reached."""

    @abstractmethod
    def close(self) -> None:
        """Ends workers and frees shared memory; safe to call twice."""

    # What everybody uses.

    def reset(self) -> np.ndarray:
        """Starts the first episode of every slot; returns the observations (N, *observation). Raises Diverged."""
        tasks, variations = self.episodes.peek()
        observation = self._call(self._start, tasks, variations)
        self._check_array("observation of _start", observation, *self._observations)
        self._check_values("observation", observation, tasks, variations, np.zeros_like(self._lengths))
        self._begin(np.arange(self.num_envs), tasks, variations)
        return observation.copy()

    def step(self, action: np.ndarray) -> EnvStep:
        """`send` and `recv` in one call."""
        self.send(action)
        return self.recv()

    def send(self, action: np.ndarray) -> None:
        """Begins one step of every slot with actions (N, A) float32 or (N,) int64. Raises Diverged."""
        expected = (self.num_envs, *self._actions.shape[2:])
        if action.shape != expected:
            raise ValueError(f"actions have shape {action.shape}, expected {expected}")
        if self._sent is not None:
            raise RuntimeError("send was called twice without recv")
        self._check_values("action", action, self.task_ids, self._variations, self._lengths + 1)
        self._sent = action.astype(self._action_dtype)
        self._next = self.episodes.peek()
        self._call(self._send, self._sent, *self._next)

    def recv(self) -> EnvStep:
        """Waits for the step begun by `send`. Raises WorkerFailure, or Diverged on a value beyond `LARGEST_VALUE`."""
        if self._sent is None:
            raise RuntimeError("recv was called without send")
        raw = self._call(self._recv)
        self._check_step(raw)
        action, self._sent = self._sent, None
        playing = self.playing_slots
        now = self.task_ids, self._variations, self._lengths + 1
        self._check_values("reward", raw.reward, *now)
        self._check_values("observation", raw.final_observation, *now)
        ends = (self.task_ids != IDLE) & (raw.terminated | raw.truncated)
        begun = *self._next, np.zeros_like(self._lengths)
        after = [np.where(ends, new, old) for new, old in zip(begun, now, strict=True)]
        self._check_values("observation", raw.observation, *after)
        self._check_lengths()

        self._actions[playing, self._lengths[playing]] = action[playing]
        self._lengths[playing] += 1
        self._returns[playing] += raw.reward[playing]
        self._successes[playing] |= raw.success[playing]
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        terminated[playing] = raw.terminated[playing]
        truncated[playing] = raw.truncated[playing]
        task_ids = self.task_ids.copy()
        ended = np.flatnonzero(terminated | truncated)
        finished = tuple(
            FinishedEpisode(
                slot=int(slot),
                task=int(self.task_ids[slot]),
                variation=int(self._variations[slot]),
                return_=float(self._returns[slot]),
                length=int(self._lengths[slot]),
                success=bool(self._successes[slot]),
            )
            for slot in ended
        )
        if ended.size:
            next_tasks, next_variations = self._next
            self._begin(ended, next_tasks[ended], next_variations[ended])
        return EnvStep(
            task_ids=task_ids,
            observation=raw.observation.copy(),
            reward=raw.reward.copy(),
            terminated=terminated,
            truncated=truncated,
            final_observation=raw.final_observation.copy(),
            episodes=finished,
        )

    def set_task_weights(self, weights: np.ndarray) -> None:
        """Sets the share (M,) of episodes each task gets; the next `send` takes it up."""
        self.episodes.set_task_weights(weights)

    def state(self) -> State:
        """Everything a restart needs; only between `recv` and `send`."""
        # Actions are for the replay; without one those of a long episode would be megabytes that nobody reads.
        longest = int(self._lengths.max(initial=0)) if self.replays_exactly else 0
        return {
            "episodes": self.episodes.state(),
            "task_ids": self.task_ids.copy(),
            "variations": self._variations.copy(),
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
            "successes": self._successes.copy(),
            "actions": self._actions[:, :longest].copy(),
        }

    def load_state(self, state: State) -> np.ndarray:
        """Restores the running episodes, or begins new ones; returns the observations (N, *observation) to act on."""
        self.episodes.load_state(state["episodes"])
        if not self.replays_exactly:
            return self.reset()
        self.task_ids[:] = np.asarray(state["task_ids"])
        self._variations[:] = np.asarray(state["variations"])
        self._returns[:] = np.asarray(state["returns"])
        self._lengths[:] = np.asarray(state["lengths"])
        self._successes[:] = np.asarray(state["successes"])
        self.playing_slots = np.flatnonzero(self.task_ids != IDLE)
        stored = np.asarray(state["actions"])
        self._actions[:, : stored.shape[1]] = stored
        played = [self._actions[slot, :length].copy() for slot, length in enumerate(self._lengths)]
        observation = self._call(self._replay, self.task_ids, self._variations, played)
        self._check_array("observation of _replay", observation, *self._observations)
        self._check_values("observation", observation, self.task_ids, self._variations, self._lengths)
        return observation.copy()

    def _begin(self, slots: np.ndarray, tasks: np.ndarray, variations: np.ndarray) -> None:
        self.task_ids[slots] = tasks
        self._variations[slots] = variations
        self._returns[slots] = 0
        self._lengths[slots] = 0
        self._successes[slots] = False
        self.playing_slots = np.flatnonzero(self.task_ids != IDLE)
        self.episodes.advance(slots)

    def _call(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a backend's method: what its code raises is a WorkerFailure that names it, `sys.exit` too."""
        try:
            return method(*args, **kwargs)
        except MtrlError:
            raise
        except (Exception, SystemExit) as error:
            trace = traceback.format_exc().rstrip()
            raise WorkerFailure(f"environment {describe_fault(error, self)}\n{trace}") from error

    def _check_step(self, raw: RawStep) -> None:
        if not isinstance(raw, RawStep):
            raise self._wrong_result(f"returned {type(raw).__name__} from _recv, expected a RawStep")
        numbers = (self.num_envs,)
        self._check_array("observation", raw.observation, *self._observations)
        self._check_array("final_observation", raw.final_observation, *self._observations)
        self._check_array("reward", raw.reward, numbers, np.dtype(np.float32))
        for name in ("terminated", "truncated", "success"):
            self._check_array(name, getattr(raw, name), numbers, np.dtype(bool))

    def _check_array(self, what: str, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if not isinstance(array, np.ndarray):
            raise self._wrong_result(f"returned {type(array).__name__} as {what}, expected an array")
        if array.shape != shape or array.dtype != dtype:
            found, expected = f"{array.shape} {array.dtype}", f"{shape} {dtype}"
            raise self._wrong_result(f"returned {what} {found}, expected {expected}")

    def _wrong_result(self, text: str) -> WorkerFailure:
        return WorkerFailure(f"environment {describe_fault(WrongResult(text), self)}")

    def _check_lengths(self) -> None:
        playing = self.playing_slots
        endless = playing[self._lengths[playing] >= self._limits[self.task_ids[playing]]]
        if endless.size:
            slot = int(endless[0])
            task = self.spec.tasks[self.task_ids[slot]]
            raise WorkerFailure(
                f"an episode did not end: task {task.name}, slot {slot}, variation {self._variations[slot]}, "
                f"after {self._lengths[slot]} steps, its max_episode_steps"
            )

    def _check_values(
        self, what: str, values: np.ndarray, tasks: np.ndarray, variations: np.ndarray, steps: np.ndarray
    ) -> None:
        """Raises Diverged for a value that is not finite or beyond `LARGEST_VALUE`, before it can be stored.

        tasks, variations, steps (N,): the episode that each slot's value belongs to (IDLE: it is not looked at).
        """
        if values.dtype.kind != "f" or float(np.abs(values).max(initial=0)) <= LARGEST_VALUE:  # False for NaN
            return
        largest = np.abs(values.reshape(self.num_envs, -1)).max(axis=1).astype(np.float64)
        wrong = np.flatnonzero((tasks != IDLE) & ~(largest <= LARGEST_VALUE))
        if not wrong.size:
            return
        slot = int(wrong[0])
        fault = "not finite" if not np.isfinite(largest[slot]) else f"as large as {largest[slot]:.3g}"
        moment = f"step {steps[slot]} of its episode" if steps[slot] else "the reset"
        raise Diverged(
            f"{what} is {fault}: task {self.spec.task_names[tasks[slot]]}, slot {slot}, variation {variations[slot]}, "
            f"{moment} (the bound is {LARGEST_VALUE:g})"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
