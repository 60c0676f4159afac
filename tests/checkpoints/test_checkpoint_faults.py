"""A kill, a full disk or an error at any call of a save leaves the previous checkpoints whole."""

from __future__ import annotations

import itertools
import os
import random
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mtrl.checkpoints.store import CheckpointStore
from mtrl.errors import StorageFailure
from mtrl.types import Chunk
from tests.checkpoints.example_checkpoints import (
    CountedCalls,
    digest,
    leftovers,
    loaded_step,
    make_state,
    one_line,
    save,
    save_best,
)
from tests.runs.forked import in_child

CHANGES = ("open", "write", "fsync", "link", "replace", "rename", "unlink", "mkdir", "rmdir")
"""Calls of a save that can change what is on the disk, by their names in `os`."""

CALLS = (*CHANGES, "close", "stat")
"""Calls that can fail."""

full = pytest.mark.full


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of syncs then do not wait for a disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="checkpoints-") as folder:
        yield Path(folder)


def two_checkpoints(folder: Path, keep: int) -> None:
    store = CheckpointStore(folder, keep)
    save(store, 100)
    save(store, 200)
    save_best(store, 200)
    (folder / ".tmp-1-step_000000000300").mkdir()
    (folder / ".tmp-1-step_000000000300" / "state.json").write_text("{")


def save_another(folder: Path, keep: int) -> None:
    """The saves of a resumed trainer, each announced when it is done."""
    store = CheckpointStore(folder, keep)
    store.load("latest")
    save(store, 300)
    os.write(1, b"step\n")
    save_best(store, 300)
    os.write(1, b"best\n")


@pytest.mark.parametrize("keep", [2, pytest.param(1, marks=full), pytest.param(3, marks=full)])
def test_a_kill_at_any_call_of_a_save_loses_nothing(quick_path: Path, keep: int) -> None:
    two_checkpoints(quick_path / "base", keep)
    shutil.copytree(quick_path / "base", quick_path / "dry")
    with CountedCalls(lambda *_: None, CHANGES) as calls:
        save_another(quick_path / "dry", keep)
    assert calls.count > 40
    ages = set()
    for number in range(1, calls.count + 1):
        folder = quick_path / str(number)
        shutil.copytree(quick_path / "base", folder)

        def killed(folder: Path = folder, number: int = number) -> None:
            def trigger(count: int, _: str) -> None:
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)

            with CountedCalls(trigger, CHANGES):
                save_another(folder, keep)

        status, told = in_child(killed)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert len(leftovers(folder)) <= 1
        store = CheckpointStore(folder, keep)
        latest, best = loaded_step(store), loaded_step(store, "best")
        assert latest >= (300 if "step" in told else 200)
        assert best >= (300 if "best" in told else 200)
        ages.add((latest, best))
        save(store, 400)
        assert leftovers(folder) == []
        assert loaded_step(store) == 400
        assert len(store.steps()) == min(keep, 3 + (latest == 300))
        shutil.rmtree(folder)
    assert ages == {(200, 200), (300, 200), (300, 300)}


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "size"), [(15, 1_000_000), pytest.param(200, 25_000_000, marks=full)])
def test_random_kills_lose_no_checkpoint_that_was_announced(tmp_path: Path, kills: int, size: int) -> None:
    draw = random.Random(0)
    store = CheckpointStore(tmp_path / "checkpoints")
    save(store, 100, size)
    announced, seconds = 100, 0.1  # of the longest life

    def keep_saving() -> None:
        signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.01, seconds))
        own = CheckpointStore(store.folder)
        for step in itertools.count(own.load("latest").step + 100, 100):
            save(own, step, size)
            os.write(1, f"{step}\n".encode())

    for _ in range(kills):
        draw.random()
        status, told = in_child(keep_saving)
        assert os.WTERMSIG(status) == signal.SIGALRM, told
        announced = max([announced, *map(int, told.split())])
        seconds *= 1 if told else 1.5  # a slow disk gets the time for a save
        assert len(leftovers(store.folder)) <= 1
        assert loaded_step(CheckpointStore(store.folder), size=size) >= announced
    assert announced > 300


class Quota:
    """A disk with room for so many more bytes, a part of the last write included."""

    def __init__(self, num_bytes: float):
        self.remaining = num_bytes
        self.taken = 0
        self._write = os.write

    def write(self, descriptor: int, data: memoryview) -> int:
        if self.remaining <= 0:
            raise OSError(28, "No space left on device")
        count = self._write(descriptor, data[: int(min(self.remaining, len(data)))])
        self.remaining -= count
        self.taken += count
        return count


def test_a_disk_that_fills_up_at_any_byte_keeps_the_previous_checkpoint(
    quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(quick_path / "checkpoints")
    save(store, 100, 50_000)
    measure = Quota(float("inf"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", measure.write)
        save(store, 200, 50_000)
    before = digest(store.folder)
    for point in range(25):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", Quota(measure.taken * point // 25).write)
            with pytest.raises(StorageFailure) as caught:
                save(store, 300, 50_000)
        message = one_line(caught.value)
        assert "step_000000000300': No space left on device: needed 2" in message
        assert ", free " in message
        assert digest(store.folder) == before
    save(store, 300, 50_000)
    assert loaded_step(store, size=50_000) == 300


def test_the_limit_of_a_file_is_a_storage_failure(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    save(store, 100, 50_000)
    before = digest(store.folder)
    for limit in (0, 1, 500, 4096, 100_000, 200_000):

        def limited(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                save(CheckpointStore(store.folder), 200, 50_000)
            except StorageFailure as error:
                os.write(1, str(error).encode())

        status, told = in_child(limited)
        assert status == 0, told
        assert "File too large: needed" in told
        assert digest(store.folder) == before


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_an_error_of_any_call_of_a_save_keeps_the_previous_checkpoint(quick_path: Path, lasting: bool) -> None:
    two_checkpoints(quick_path / "base", 2)
    outcomes = set()
    for number in itertools.count(1):
        folder = quick_path / str(number)
        shutil.copytree(quick_path / "base", folder)
        store = CheckpointStore(folder)
        store.load("latest")

        def trigger(count: int, name: str, number: int = number) -> None:
            if count == number or (lasting and count > number):
                raise OSError(5, "Input/output error")

        with CountedCalls(trigger, CALLS) as calls:
            try:
                save(store, 300)
                failed = False
            except StorageFailure as error:
                one_line(error)
                failed = True
        latest = loaded_step(CheckpointStore(folder))
        assert latest == 300 or (failed and latest == 200)
        assert len(leftovers(folder)) <= 1
        outcomes.add((failed, latest))
        save(store, 400)
        assert loaded_step(CheckpointStore(folder)) == 400
        assert leftovers(folder) == []
        shutil.rmtree(folder)
        if calls.count < number:
            break
    assert outcomes == {(True, 200), (True, 300), (False, 300)}


def test_a_state_that_cannot_be_saved_leaves_nothing_behind(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    save(store, 100)
    before = digest(store.folder)

    def interrupted() -> dict[str, torch.Tensor]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.save(200, make_state(200), [Chunk("rows-0", False, interrupted)], info={})
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.save(200, make_state(200), info={"rate": float("nan")})
    assert digest(store.folder) == before
