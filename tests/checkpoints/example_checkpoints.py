"""Checkpoints whose whole content follows from their step, and faults of the system planted under them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from mtrl.checkpoints.store import CheckpointStore
from mtrl.types import Chunk


def make_state(step: int, size: int = 100) -> dict:
    return {"step": step, "agent": {"weight": torch.full((size,), float(step)), "steps": [step, None]}}


def make_chunks(step: int, size: int = 10) -> list[Chunk]:
    """One complete chunk per hundred steps, and a tail."""

    def chunk(name: str, complete: bool, value: float) -> Chunk:
        return Chunk(name, complete, lambda: {"reward": torch.full((size,), value)})

    number = step // 100
    return [*(chunk(f"rows-{i}", True, i) for i in range(number)), chunk(f"rows-{number}-{step}", False, step)]


def save(store: CheckpointStore, step: int, size: int = 100) -> None:
    store.save(step, make_state(step, size), make_chunks(step), info={"note": step})


def save_best(store: CheckpointStore, step: int) -> None:
    store.save(step, make_state(step), kind="best", info={"score": step / 1000})


def loaded_step(store: CheckpointStore, which: str = "latest", size: int = 100) -> int:
    """The step of the checkpoint that loads, after comparing all that is in it. Raises BadInput."""
    checkpoint = store.load(which)
    step, expected = checkpoint.step, make_state(checkpoint.step, size)
    assert torch.equal(checkpoint.state["agent"].pop("weight"), expected["agent"].pop("weight"))
    assert checkpoint.state == expected
    if which == "latest":
        assert checkpoint.info == {"note": step}
        chunks = [(name, tensors["reward"].tolist()) for name, tensors in checkpoint.chunks()]
        assert chunks == [(chunk.name, chunk.tensors()["reward"].tolist()) for chunk in make_chunks(step)]
    return step


def assert_same(left: object, right: object) -> None:
    """Equal in value and in type, all the way down."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert set(left) == set(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list):
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, torch.Tensor | np.ndarray):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert np.array_equal(torch.as_tensor(left), torch.as_tensor(right))
    else:
        assert repr(left) == repr(right)


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".tmp-")]


def digest(folder: Path) -> str:
    """Names and contents of everything in a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(str(path.relative_to(folder)).encode())
        if path.is_file():
            total.update(path.read_bytes())
    return total.hexdigest()


def one_line(error: BaseException) -> str:
    text = str(error)
    assert len(text) <= 300, text
    assert text.isprintable()
    return text


class CountedCalls:
    """Replaces functions of `os` by ones that first tell `trigger` the number and the name of the call."""

    def __init__(self, trigger: Callable[[int, str], None], names: Sequence[str]):
        self.count = 0
        self._trigger = trigger
        self._originals = {name: getattr(os, name) for name in names}

    def __enter__(self) -> CountedCalls:
        for name, original in self._originals.items():
            setattr(os, name, self._counted(name, original))
        return self

    def __exit__(self, *_: object) -> None:
        for name, original in self._originals.items():
            setattr(os, name, original)

    def _counted(self, name: str, original: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            self.count += 1
            self._trigger(self.count, name)
            return original(*args, **kwargs)

        return call
