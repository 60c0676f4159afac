"""Environment slots, stepped one after the other in one process.

The same code runs in a worker and in the main process, so the number of workers cannot change a trajectory. Shapes: N
slots, K workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from mtrl.faults import WrongResult, describe_fault

BEGIN = b"b"
"""Command: start the next episode of every slot that has one."""
STEP = b"s"
"""Command: one step of every slot that plays."""

NOBODY = -1
"""In place of a slot or task: none. As a next task it lets a slot rest once its episode has ended."""


_NUMBERS = (float, int, np.floating, np.integer)


class SlotStep(NamedTuple):
    """What one step of one slot gave."""

    observation: np.ndarray  # (*observation)
    reward: float
    terminated: bool
    truncated: bool
    success: bool  # at this step


class SlotEnv(Protocol):
    """What a suite implements to be played by a worker pool: one episode at a time, of any task.

    A slot that plays environments of others may hold the one that it plays now as `environment`: faults are named after
    it.
    """

    def begin(self, task: int, variation: int) -> np.ndarray:
        """Starts an episode; it must depend on nothing but (task, variation) and the actions to come.

        Returns the first observation, in the suite's shape and dtype, or one of the same kind: float64 becomes float32.
        """

    def step(self, action: Any) -> SlotStep:
        """Steps with an action (A,) float32, or an int64 scalar."""


SlotEnvFactory = Callable[[], SlotEnv]
"""Called once per slot, in the process that steps it. Must pickle, and be cheap to: simulators are imported in it."""


@dataclass(frozen=True, kw_only=True)
class SlotLayout:
    """Sizes of the arrays that the main process and its workers share."""

    num_slots: int
    num_workers: int
    observation_shape: tuple[int, ...]
    observation_dtype: str
    action_shape: tuple[int, ...]
    action_dtype: str

    def fields(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of every array, by name."""
        slots, workers = self.num_slots, self.num_workers
        observations = ((slots, *self.observation_shape), self.observation_dtype)
        return {
            "action": ((slots, *self.action_shape), self.action_dtype),
            "playing": ((slots,), "bool"),
            "next_task": ((slots,), "int64"),
            "next_variation": ((slots,), "int64"),
            "observation": observations,
            "final_observation": observations,
            "reward": ((slots,), "float32"),
            "terminated": ((slots,), "bool"),
            "truncated": ((slots,), "bool"),
            "success": ((slots,), "bool"),
            "busy": ((workers,), "bool"),
            "last_slot": ((workers,), "int64"),
            "last_task": ((workers,), "int64"),
            "progress": ((workers,), "int64"),
        }

    @property
    def num_bytes(self) -> int:
        return sum(_padded(shape, dtype) for shape, dtype in self.fields().values())


def _padded(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of an array rounded up to a cache line, so that arrays start aligned."""
    return -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 64) * 64


class SlotArrays:
    """The shared arrays, laid out in one buffer."""

    action: np.ndarray  # (N, A) or (N,), set before a step
    playing: np.ndarray  # (N,) bool, the slots that a step is for
    next_task: np.ndarray  # (N,) int64, what a slot starts next; NOBODY: nothing
    next_variation: np.ndarray  # (N,) int64
    observation: np.ndarray  # (N, *observation), to act on next
    final_observation: np.ndarray  # (N, *observation), before auto-reset
    reward: np.ndarray  # (N,) float32
    terminated: np.ndarray  # (N,) bool
    truncated: np.ndarray  # (N,) bool
    success: np.ndarray  # (N,) bool
    busy: np.ndarray  # (K,) bool, whether a worker is carrying out a command
    last_slot: np.ndarray  # (K,) int64, the slot a worker is or was last at
    last_task: np.ndarray  # (K,) int64
    progress: np.ndarray  # (K,) int64, counts what a worker has begun; a worker at which it stands still hangs

    def __init__(self, layout: SlotLayout, buffer: Any):
        offset = 0
        for name, (shape, dtype) in layout.fields().items():
            flat = np.frombuffer(buffer, dtype, count=int(np.prod(shape)), offset=offset)
            setattr(self, name, flat.reshape(shape))
            offset += _padded(shape, dtype)

    def activity(self, worker: int, task_names: Sequence[str]) -> str:
        """What a worker does or did last, e.g. `at task reach-v3 in slot 3`."""
        if not self.progress[worker]:
            return "before its first task"
        task = task_names[self.last_task[worker]]
        return f"{'at' if self.busy[worker] else 'after'} task {task} in slot {self.last_slot[worker]}"


class SlotRunner:
    """Plays some of the slots: reads actions and next episodes from the arrays, writes results to them."""

    def __init__(self, arrays: SlotArrays, slots: Sequence[int], worker: int, make_env: SlotEnvFactory):
        """The environments are made by the first command."""
        self._arrays = arrays
        self._slots = slots
        self._worker = worker
        self._make_env = make_env
        self._envs: dict[int, SlotEnv] = {}
        self._current: object = make_env  # whose code runs
        self._tasks = dict.fromkeys(slots, NOBODY)
        # Views of single rows, made once: slicing costs as much as the copy.
        self._observations = {slot: arrays.observation[slot] for slot in slots}
        self._final_observations = {slot: arrays.final_observation[slot] for slot in slots}
        self._shape = arrays.observation.shape[1:]
        self._checked_dtype = arrays.observation.dtype  # one that fits
        self._begun = 0

    def run(self, command: bytes) -> None:
        """BEGIN or STEP. Raises what an environment raises, or WrongResult for what none may return."""
        self._arrays.busy[self._worker] = True
        if not self._envs:
            self._envs = {slot: self._make_env() for slot in self._slots}
        if command == BEGIN:
            for slot in self._envs:
                self._begin(slot)
        else:
            self._step()
        self._arrays.busy[self._worker] = False

    def describe(self, error: BaseException) -> str:
        """What is to blame for an error of `run`, and the error, in one line."""
        return describe_fault(error, getattr(self._current, "environment", None) or self._current)

    def forget(self) -> None:
        """Drops the environments."""
        self._envs, self._current = {}, None

    def _step(self) -> None:
        """One step of every slot that plays; one whose episode ends starts its next in the same step."""
        arrays = self._arrays
        for slot, env in self._envs.items():
            if not arrays.playing[slot]:
                continue
            self._note(slot, self._tasks[slot])
            result = env.step(arrays.action[slot])
            if not isinstance(result, tuple) or len(result) != len(SlotStep._fields):
                raise WrongResult(f"returned {_kind(result)} from step, expected a SlotStep")
            observation, reward, terminated, truncated, success = result
            self._write(self._final_observations[slot], observation, "step")
            if not isinstance(reward, _NUMBERS):
                raise WrongResult(f"returned {_kind(reward)} as the reward of step, expected a number")
            arrays.reward[slot] = reward
            arrays.terminated[slot] = terminated
            arrays.truncated[slot] = truncated
            arrays.success[slot] = success
            if terminated or truncated:
                self._begin(slot)
            else:
                self._observations[slot][...] = self._final_observations[slot]

    def _begin(self, slot: int) -> None:
        arrays = self._arrays
        task = int(arrays.next_task[slot])
        self._tasks[slot] = task
        if task == NOBODY:
            self._observations[slot][...] = self._final_observations[slot]
            return
        self._note(slot, task)
        observation = self._envs[slot].begin(task, int(arrays.next_variation[slot]))
        self._write(self._observations[slot], observation, "begin")

    def _note(self, slot: int, task: int) -> None:
        """Leaves word of what is being done, for the message if it is never finished."""
        self._begun += 1
        self._current = self._envs[slot]
        arrays, worker = self._arrays, self._worker
        arrays.last_task[worker] = task
        arrays.last_slot[worker] = slot
        arrays.progress[worker] = self._begun

    def _write(self, row: np.ndarray, observation: np.ndarray, method: str) -> None:
        # The assignment would broadcast a wrong shape and wrap around numbers of a wrong kind, and say nothing.
        if not isinstance(observation, np.ndarray):
            raise WrongResult(f"returned {_kind(observation)} as the observation of {method}, expected an array")
        if observation.shape != self._shape:
            raise WrongResult(
                f"returned an observation of shape {observation.shape} from {method}, expected {self._shape}"
            )
        if observation.dtype != self._checked_dtype:
            if not np.can_cast(observation.dtype, row.dtype, "same_kind"):
                raise WrongResult(
                    f"returned an observation of dtype {observation.dtype} from {method}, expected {row.dtype}"
                )
            self._checked_dtype = observation.dtype
        row[...] = observation


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
