"""The processes of a data-parallel run, which torchrun starts: rank 0, which writes, and those that follow it.

All ranks hold the whole state of the run and go through the same steps in the same order, so that rank 0 can write what
a run of one process would. What happens on one rank alone (an error, a signal) they have to tell each other.
Without torchrun there is one rank and nothing here does anything. Shapes: N slots, K ranks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # here: imported later, its default arguments would hold the group to the end

from mtrl.errors import BadInput, Diverged, MtrlError, RankFailure, StorageFailure, WorkerFailure

_TIMEOUT = timedelta(days=7)
"""Ranks wait for rank 0 while it evaluates. One that is gone is noticed at once, whatever the timeout."""

_MAX_MESSAGE_BYTES = 4096

_KINDS = {kind.exit_code: kind for kind in (BadInput, Diverged, WorkerFailure, StorageFailure)}


@dataclass
class World:
    """The ranks of this run."""

    rank: int = 0
    size: int = 1
    per_node: int = 1  # on this machine


WORLD = World()


@contextmanager
def joined() -> Iterator[None]:
    """Inside, this process is one of the ranks that torchrun started. Tensors on a GPU go by NCCL, others by gloo."""
    WORLD.per_node = int(os.environ["LOCAL_WORLD_SIZE"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=_TIMEOUT)
    else:
        dist.init_process_group("gloo", timeout=_TIMEOUT)
    WORLD.rank, WORLD.size = dist.get_rank(), dist.get_world_size()
    yield
    # After an error the end of the process does it: others may be gone, and NCCL would wait for them.
    WORLD.rank, WORLD.size, WORLD.per_node = 0, 1, 1
    dist.destroy_process_group()


def collective(operation: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """An operation of torch.distributed. Raises RankFailure where another rank is gone."""
    try:
        operation(*arguments, **named)
    except RuntimeError as error:
        raise RankFailure(
            "another process of this data-parallel run ended, and this one with it; "
            f"--resume continues from the last checkpoint ({str(error).partition(chr(10))[0][:80]})"
        ) from error


@contextmanager
def agreed() -> Iterator[None]:
    """All ranks leave the block, or all raise: an MtrlError of one rank is raised by the others too.

    Rank 0 reports it. What is no MtrlError ends its own rank, and with that the others.
    """
    if WORLD.size == 1:
        yield
        return
    error: MtrlError | None = None
    try:
        yield
    except MtrlError as raised:
        error = raised
    codes = _gathered(np.array([0 if error is None else error.exit_code], np.int64))[:, 0]
    if not codes.any():
        return
    message = np.zeros(_MAX_MESSAGE_BYTES, np.uint8)
    if error is not None:
        text = str(error).encode()[:_MAX_MESSAGE_BYTES]
        message[: len(text)] = np.frombuffer(text, np.uint8)
    messages = _gathered(message)
    failed = int(codes.nonzero()[0][0])
    if error is None or WORLD.rank != failed:
        text = messages[failed].tobytes().rstrip(b"\0")
        error = _KINDS.get(int(codes[failed]), MtrlError)(f"rank {failed}: {text.decode(errors='replace')}")
    error.reported = WORLD.rank != 0
    raise error


def largest(*values: int) -> list[int]:
    """The largest of each value over all ranks."""
    if WORLD.size == 1:
        return list(values)
    shared = torch.tensor(values, dtype=torch.int64)
    collective(dist.all_reduce, shared, op=dist.ReduceOp.MAX)
    return shared.tolist()


def own_slots(num_envs: int) -> slice:
    """The environment slots that this rank steps: every K-th of N."""
    return slice(WORLD.rank, num_envs, WORLD.size)


def all_slots(make_own: Callable[[], Sequence[np.ndarray]], like: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Arrays (N, ...) of all slots, on every rank, from those (n, ...) that each rank makes of its own.

    like: arrays of the same shapes and types. An MtrlError of one rank is raised by all.
    """
    num_envs, widths = len(like[0]), [array[0].nbytes for array in like]
    # As many rows on every rank; those beyond N are cut off again. The first byte tells of an error.
    rows = np.zeros((-(-num_envs // WORLD.size), 1 + sum(widths)), np.uint8)
    error: MtrlError | None = None
    try:
        own = [np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8) for array in make_own()]
        rows[: len(own[0]), 1:] = np.concatenate(own, axis=1)
    except MtrlError as raised:
        error, rows[:, 0] = raised, 1
    gathered = _gathered(rows).swapaxes(0, 1).reshape(-1, rows.shape[1])
    if gathered[:, 0].any():
        with agreed():
            if error is not None:
                raise error
    columns = np.split(gathered[:num_envs, 1:], np.cumsum(widths)[:-1], axis=1)
    return [
        np.ascontiguousarray(column).view(array.dtype).reshape(array.shape)
        for column, array in zip(columns, like, strict=True)
    ]


def _gathered(own: np.ndarray) -> np.ndarray:
    """(K, ...) from an array (...) of each rank."""
    sent = torch.from_numpy(own)
    received = sent.new_empty(WORLD.size * sent.numel())
    collective(dist.all_gather_into_tensor, received, sent.flatten())
    return received.numpy().reshape(WORLD.size, *own.shape)
