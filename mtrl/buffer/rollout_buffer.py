"""The replay and rollout buffer: one class, two readers.

Columns are preallocated rings (R, N, ...) with retention by time. Observations are stored once: the successor of row t
is row t + 1 of the same slot, or the final observation kept aside where an episode ended. Of observations that are
stacks of frames only the newest frame is stored, and reading puts the stacks together again. Rewards are raw. Row ids
per task (first in, first out, 4 bytes a row) make draws uniform within a task however slots change tasks.

Shapes: T rows kept, F frames per observation (1: not a stack), R = T + F ring rows, N slots, M tasks, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from mtrl.buffer.task_index import TaskIndex
from mtrl.errors import BadInput
from mtrl.seeding import load_stream_state, stream, stream_state
from mtrl.types import ActionStep, Batch, Chunk, EnvStep, State, SuiteSpec

CHUNK_ROWS = 2048
"""Rows of time per chunk of a saved buffer."""

_PRECEDING = ("observation", "terminated", "truncated")
"""Columns of which the rows before the oldest one still matter, to put its stack of frames together."""


def buffer_bytes(spec: SuiteSpec, num_envs: int, capacity: int, extras: Mapping[str, tuple[int, ...]]) -> int:
    """Memory that a full buffer takes, but for the last observations of episodes."""
    columns = _columns(spec, extras).values()
    transition = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in columns)
    return (capacity + spec.frame_stack) * num_envs * (transition + TaskIndex.ID_BYTES)


def _columns(spec: SuiteSpec, extras: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and dtype of what is stored of a transition, by the column's name."""
    space = spec.action_space
    return {
        "observation": (spec.frame_shape, spec.observation_space.dtype),
        "action": (tuple(space.shape or ()), np.int64 if isinstance(space, gym.spaces.Discrete) else np.float32),
        "reward": ((), np.float32),
        "terminated": ((), np.bool_),
        "truncated": ((), np.bool_),
        "task_ids": ((), np.int16),
        **{f"extras.{name}": (shape, np.float32) for name, shape in extras.items()},
    }


class RolloutBuffer:
    """The last `capacity` vector steps of N slots."""

    def __init__(
        self,
        spec: SuiteSpec,
        num_envs: int,
        capacity: int,
        seed: int,
        extras: Mapping[str, tuple[int, ...]] | None = None,
        device: torch.device | str = "cpu",
    ):
        """`capacity` is in vector steps; `extras` are per-row shapes (float32) that the agent stores when it acts.

        Raises BadInput for more rows than there are ids.
        """
        self.num_tasks = spec.num_tasks
        self.num_envs = num_envs
        self.capacity = capacity
        self.device = torch.device(device)
        self._frames = spec.frame_stack
        # One row more for what follows the newest, the others for frames that the oldest observation reaches back to.
        self._ring_rows = capacity + self._frames
        ring = (self._ring_rows, num_envs)
        if capacity * num_envs >= 2**31 - num_envs:
            raise BadInput(f"a buffer of {capacity} rows of {num_envs} slots exceeds 32-bit row ids")
        self._columns = {
            name: np.zeros((*ring, *shape), dtype) for name, (shape, dtype) in _columns(spec, extras or {}).items()
        }
        self._columns["task_ids"].fill(-1)
        self._extras = tuple(extras or {})
        self._finals: dict[int, np.ndarray] = {}  # newest frame of the final observation, by row id
        self._index = TaskIndex(self.num_tasks)
        self._stream = stream(seed, "buffer")
        self.rows_added = 0  # vector steps since the start of the run
        self._oldest = 0  # number of the oldest row kept, counted like `rows_added`

    @property
    def num_rows(self) -> int:
        """Vector steps stored, at most `capacity`."""
        return self.rows_added - self._oldest

    @property
    def task_sizes(self) -> np.ndarray:
        """Transitions stored per task (M,)."""
        return self._index.sizes

    @property
    def num_bytes(self) -> int:
        """Memory of everything stored."""
        finals = sum(final.nbytes for final in self._finals.values())
        return sum(column.nbytes for column in self._columns.values()) + finals + self._index.num_bytes

    def add(self, observation: np.ndarray, action_step: ActionStep, step: EnvStep) -> None:
        """Appends one vector step: observation (N, *observation) acted on, and what came of it."""
        row, following = self._ring(self.rows_added), self._ring(self.rows_added + 1)
        if self.num_rows == self.capacity:
            self._retire_oldest()
        columns = self._columns
        if not self.rows_added:
            # What the first observation shows of the time before it; later ones find it in the rows before them.
            columns["observation"][self._preceding()] = self._split(observation)[:-1]
        columns["observation"][row] = self._newest_frame(observation)
        columns["observation"][following] = self._newest_frame(step.observation)
        columns["action"][row] = action_step.action
        columns["reward"][row] = step.reward
        columns["terminated"][row] = step.terminated
        columns["truncated"][row] = step.truncated
        columns["task_ids"][row] = step.task_ids
        for name in self._extras:
            columns[f"extras.{name}"][row] = action_step.extras[name]
        first = row * self.num_envs
        final_frames = self._newest_frame(step.final_observation)
        for slot in np.flatnonzero(step.terminated | step.truncated):
            self._finals[first + int(slot)] = final_frames[slot].copy()
        self._index.append(first, step.task_ids)
        self.rows_added += 1

    def _retire_oldest(self) -> None:
        """Forgets the oldest row, whose place in the ring the next observation takes."""
        row = self._ring(self._oldest)
        self._oldest += 1
        self._index.retire(self._columns["task_ids"][row])
        for slot in np.flatnonzero(self._ended(row)):
            del self._finals[row * self.num_envs + int(slot)]

    def end_running_episodes(self) -> None:
        """The newest row becomes the last one of the episodes that still run, which are truncated there.

        For environments that cannot go on with them: the rows to come belong to other episodes.
        """
        if not self.rows_added:
            return
        row = self._ring(self.rows_added - 1)
        running = ~self._ended(row)
        self._columns["truncated"][row] |= running
        for slot in np.flatnonzero(running) if self.num_rows else ():
            newest = self._columns["observation"][self._ring(self.rows_added), slot]
            self._finals[row * self.num_envs + int(slot)] = newest.copy()

    def sample(self, batch_size: int, weights: np.ndarray | None = None, n_step: int = 1, horizon: int = 0) -> Batch:
        """B transitions sorted by task, uniform with replacement within each task.

        With `n_step` above 1 each is followed for so many steps, fewer where its episode ends or the newest row is
        reached: `next_observation`, `terminated` and `truncated` are those of the last step L, extras `n_step_rewards`
        (B, n_step) the rewards of all of them, 0 beyond the last, and `n_step_length` (B,) is L.

        With `horizon` K above 0 the extras `sequence_action` (B, K, ...), `sequence_observation` (B, K, *observation),
        the successors, `sequence_reward` and `sequence_terminated` (B, K) have the next K steps whatever `n_step`, and
        `sequence_valid` (B, K) says which of them are there; others repeat the first. They are left out where the batch
        has them already: K and `n_step` 1.

        Task i gets the share weights[i] (M,) of the batch (equal shares by default), in expectation where that is no
        whole number of transitions. A task without stored transitions gives its share to the others, which share
        equally where none of them has any. Raises ValueError while nothing is stored.
        """
        stored = (self._index.sizes > 0).astype(np.float64)
        shares = stored if weights is None else stored * weights
        counts = share_out(shares if shares.any() else stored, batch_size, self._stream)
        ids = self._index.draw(counts, self._stream)
        batch = self._batch(ids, torch.from_numpy(np.repeat(np.arange(self.num_tasks), counts)), counts)
        if horizon > 1 or (horizon and n_step > 1):
            batch = self._with_sequence(batch, ids, horizon)
        return batch if n_step == 1 else self._followed(batch, ids, n_step)

    def _with_sequence(self, batch: Batch, ids: np.ndarray, horizon: int) -> Batch:
        """The batch of the rows `ids` (B,) with extras of the next `horizon` steps."""
        places, valid = self._following(ids, horizon)
        places = np.where(valid, places, ids[:, None])
        successors = self._frames_around(places.reshape(-1))[:, 1:]
        columns = {name: self._flat(name)[places] for name in ("action", "reward", "terminated")}
        sequence = {name: self._tensor(column) for name, column in columns.items()}
        sequence["observation"] = self._tensor(successors).flatten(1, 2).unflatten(0, places.shape)
        sequence["valid"] = self._tensor(valid)
        extras = {f"sequence_{name}": value for name, value in sequence.items()}
        return replace(batch, extras={**batch.extras, **extras})

    def _following(self, ids: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (B, steps) from `ids` (B,) on, and which of them are stored and of the same episode."""
        steps = np.arange(num_steps)
        places = (ids[:, None] + self.num_envs * steps) % (self._ring_rows * self.num_envs)
        newer = (self.rows_added - 1 - ids // self.num_envs) % self._ring_rows  # rows stored after each
        ended = self._flat("terminated")[places] | self._flat("truncated")[places]
        taken = steps <= newer[:, None]
        taken[:, 1:] &= ~np.logical_or.accumulate(ended[:, :-1], axis=1)
        return places, taken

    def _followed(self, batch: Batch, ids: np.ndarray, n_step: int) -> Batch:
        """The batch of the rows `ids` (B,), followed for `n_step` steps."""
        places, taken = self._following(ids, n_step)
        length = taken.sum(1)
        last = places[np.arange(len(ids)), length - 1]
        return replace(
            batch,
            terminated=self._tensor(self._flat("terminated")[last]),
            truncated=self._tensor(self._flat("truncated")[last]),
            next_observation=self._tensor(self._frames_around(last)[:, 1:]).flatten(1, 2),
            extras={
                **batch.extras,
                "n_step_rewards": self._tensor(np.where(taken, self._flat("reward")[places], np.float32(0))),
                "n_step_length": self._tensor(length),
            },
        )

    def rollout(self, horizon: int = 0) -> Batch:
        """Everything stored, oldest first, with leading dimensions (T, N); `horizon` as in `sample`."""
        rows = self._ring(np.arange(self._oldest, self.rows_added))
        ids = (rows[:, None] * self.num_envs + np.arange(self.num_envs)).reshape(-1)
        task_ids = self._flat("task_ids")[ids].astype(np.int64)
        counts = np.bincount(task_ids, minlength=self.num_tasks)
        batch = self._batch(ids, torch.from_numpy(task_ids), counts)
        batch = self._with_sequence(batch, ids, horizon) if horizon > 1 else batch
        return batch.map_columns(lambda value: value.unflatten(0, (len(rows), self.num_envs)))

    def clear(self) -> None:
        """Forgets all rows (on-policy agents, after learning from them)."""
        self._finals.clear()
        self._index.clear()
        self._oldest = self.rows_added

    def _batch(self, ids: np.ndarray, task_ids: torch.Tensor, counts: np.ndarray) -> Batch:
        tensor = self._tensor
        # Observation and successor are views of the same frames, which cross to the device once.
        frames = tensor(self._frames_around(ids)).flatten(1, 2)
        channels = frames.shape[1] // (self._frames + 1)
        return Batch(
            task_ids=task_ids.to(self.device, non_blocking=True),
            observation=frames[:, :-channels],
            action=tensor(self._flat("action")[ids]),
            reward=tensor(self._flat("reward")[ids]),
            terminated=tensor(self._flat("terminated")[ids]),
            truncated=tensor(self._flat("truncated")[ids]),
            next_observation=frames[:, channels:],
            shares=tensor((counts / counts.sum()).astype(np.float32)),
            counts=tuple(counts.tolist()),
            extras={name: tensor(self._flat(f"extras.{name}")[ids]) for name in self._extras},
        )

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)

    def _frames_around(self, ids: np.ndarray) -> np.ndarray:
        """The F frames of each row's observation, oldest first, and the one after: (B, F + 1, *frame)."""
        places = ids[:, None] + self.num_envs * np.arange(1 - self._frames, 2)
        places %= self._ring_rows * self.num_envs
        frames = self._flat("observation")[places]
        ended = self._flat("terminated")[places[:, :-1]] | self._flat("truncated")[places[:, :-1]]
        # A frame is another episode's if any row between it and the observation was the last of one.
        foreign = np.logical_or.accumulate(ended[:, -2::-1], axis=1)[:, ::-1]
        frames[:, :-2][foreign] = 0
        for position in np.flatnonzero(ended[:, -1]):
            frames[position, -1] = self._finals[int(ids[position])]
        return frames

    def _flat(self, name: str) -> np.ndarray:
        column = self._columns[name]
        return column.reshape(-1, *column.shape[2:])

    def _ring(self, rows: Any) -> Any:
        """Where rows, counted from the start of the run, lie in the ring."""
        return rows % self._ring_rows

    def _preceding(self) -> np.ndarray:
        """Ring rows of the F - 1 frames before the oldest row."""
        return self._ring(np.arange(self._oldest - self._frames + 1, self._oldest))

    def _ended(self, row: int) -> np.ndarray:
        return self._columns["terminated"][row] | self._columns["truncated"][row]

    def _split(self, observation: np.ndarray) -> np.ndarray:
        """Observations (N, *observation) as frames (F, N, *frame)."""
        return np.stack(np.split(observation, self._frames, axis=1))

    def _newest_frame(self, observation: np.ndarray) -> np.ndarray:
        """(N, *observation) -> (N, *frame)."""
        return observation[:, observation.shape[1] // self._frames * (self._frames - 1) :]

    def state(self) -> State:
        """The small part of the buffer's state; the rows are in `chunks`."""
        return {
            "rows_added": self.rows_added,
            "oldest": self._oldest,
            "stream": stream_state(self._stream),
            # The newest frame of the observation that follows the newest row, and the frames before the oldest row
            # with the ends of episodes among them; every other frame is that of a stored row.
            "newest": self._columns["observation"][self._ring(self.rows_added)].copy(),
            "preceding": {name: self._columns[name][self._preceding()] for name in _PRECEDING if self._frames > 1},
        }

    def load_state(self, state: State, chunks: Iterator[tuple[str, dict[str, torch.Tensor]]]) -> None:
        """Takes up a state and the chunks saved with it."""
        self.clear()
        load_stream_state(self._stream, state["stream"])
        self.rows_added = int(state["rows_added"])
        saved_oldest = int(state["oldest"])
        # A smaller buffer than the one saved keeps the newest rows.
        self._oldest = max(saved_oldest, self.rows_added - self.capacity)
        first_frame = self._oldest - self._frames + 1
        self._columns["observation"][self._ring(self.rows_added)] = np.asarray(state["newest"])
        for index, row in enumerate(range(saved_oldest - self._frames + 1, saved_oldest)):
            for name in _PRECEDING if row >= first_frame else ():
                self._columns[name][self._ring(row)] = np.asarray(state["preceding"][name])[index]
        for _, tensors in chunks:
            first = int(tensors["first_row"])
            # A chunk may begin before the oldest row kept.
            length = tensors["reward"].shape[0]
            skip = min(max(0, first_frame - first), length)
            rows = self._ring(np.arange(first + skip, first + length))
            for name, column in self._columns.items():
                column[rows] = tensors[name][skip:].numpy()
            for position, final in zip(tensors["final_rows"].tolist(), tensors["finals"].numpy(), strict=True):
                offset, slot = divmod(position, self.num_envs)
                if first + offset >= self._oldest:
                    self._finals[self._ring(first + offset) * self.num_envs + slot] = final.copy()
            for row in rows[max(0, self._oldest - first - skip) :]:
                self._index.append(int(row) * self.num_envs, self._columns["task_ids"][row])

    def chunks(self) -> Iterator[Chunk]:
        """The stored rows in pieces of `CHUNK_ROWS`, aligned to the run's start so that full ones never change."""
        oldest = self._oldest
        for first in range(oldest - oldest % CHUNK_ROWS, self.rows_added, CHUNK_ROWS):
            stop = min(first + CHUNK_ROWS, self.rows_added)
            # A chunk whose first rows are gone from the ring already can only be linked, not written anew.
            yield Chunk(
                name=f"rows-{first:012d}-{stop:012d}",
                # The newest row can still change: see `end_running_episodes`.
                complete=stop == first + CHUNK_ROWS and stop < self.rows_added,
                tensors=partial(self._chunk, max(first, oldest), stop),
            )

    def _chunk(self, first: int, stop: int) -> dict[str, torch.Tensor]:
        rows = self._ring(np.arange(first, stop))
        tensors = {name: torch.from_numpy(column[rows]) for name, column in self._columns.items()}
        ids = (rows[:, None] * self.num_envs + np.arange(self.num_envs)).reshape(-1)
        ended = np.flatnonzero(np.asarray(tensors["terminated"] | tensors["truncated"]).reshape(-1))
        shape = self._columns["observation"].shape[2:]
        finals = np.zeros((len(ended), *shape), self._columns["observation"].dtype)
        for index, position in enumerate(ended):
            finals[index] = self._finals[int(ids[position])]
        return tensors | {
            "first_row": torch.tensor(first),
            "final_rows": torch.from_numpy(ended),  # position within the chunk, row-major
            "finals": torch.from_numpy(finals),
        }


def share_out(shares: np.ndarray, total: int, generator: np.random.Generator) -> np.ndarray:
    """Whole numbers (M,) that add up to `total`, each within one of its exact proportion, which is its expectation.

    Systematic sampling: one random offset decides all roundings, and none is drawn if there is nothing to round.
    """
    if not shares.sum() > 0:
        raise ValueError("there is nothing to share out")
    upper = np.cumsum(shares) / shares.sum() * total
    upper[-1] = total
    whole = np.rint(upper)
    upper = np.where(np.abs(upper - whole) < 1e-6, whole, upper)  # not a rounding error of the proportions
    offset = 0.0 if (upper == whole).all() else generator.random()
    return np.diff(np.floor(upper + offset), prepend=0.0).astype(np.int64)
