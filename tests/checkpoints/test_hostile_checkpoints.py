"""Damaged and hostile checkpoints are refused in one line; nothing in them is run, and nothing outside is touched."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mtrl.checkpoints import tensor_file
from mtrl.checkpoints.store import CheckpointStore
from mtrl.errors import BadInput
from tests.checkpoints.example_checkpoints import CountedCalls, loaded_step, one_line, save, save_best
from tests.checkpoints.malicious_files import (
    HOSTILE_CHECKPOINTS,
    LARGE,
    edit_manifest,
    forge,
    newest,
    pickled,
    tensor_file_bytes,
)
from tests.runs.forked import in_child

full = pytest.mark.full

Damage = Callable[[bytes, random.Random], bytes | None]


def flip_a_bit(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def zero_a_block(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content))
    block = content[start : start + 64]
    return content[:start] + (bytes(len(block)) if any(block) else b"\xff" * len(block)) + content[start + 64 :]


DAMAGES: list[Damage] = [
    flip_a_bit,
    zero_a_block,
    lambda content, draw: content[: draw.randrange(len(content))],
    lambda content, draw: content + draw.randbytes(draw.randrange(1, 100)),
    lambda content, draw: b"",
    lambda content, draw: None,  # removed
]


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "checkpoints"
    store = CheckpointStore(folder)
    save(store, 100)
    save(store, 200)
    return folder


def copied(base: Path, folder: Path) -> Path:
    # Links kept: a chunk that both checkpoints share is one file, whose damage neither survives.
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["cp", "-a", base, folder], check=True)
    return folder


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=full)])
def test_every_damage_to_a_file_is_detected(
    tmp_path: Path, two_checkpoints: Path, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    draw = random.Random(1)
    fell_back = 0
    for number in range(count):
        folder = copied(two_checkpoints, tmp_path / "checkpoints")
        path = draw.choice(sorted((folder / "step_000000000200").iterdir()))
        content = DAMAGES[number % len(DAMAGES)](path.read_bytes(), draw)
        path.unlink() if content is None else path.write_bytes(content)
        caplog.clear()
        try:
            assert loaded_step(CheckpointStore(folder)) == 100
            assert len(caplog.records) == 1
            one_line(Exception(caplog.records[0].getMessage()))
            fell_back += 1
        except BadInput as error:  # a chunk that both checkpoints link to
            assert "rows-0.safetensors" in one_line(error)  # noqa: PT017
            assert caplog.records == []
        with pytest.raises(BadInput):
            CheckpointStore(folder).load(200)
        save(CheckpointStore(folder), 300)
        assert loaded_step(CheckpointStore(folder)) == 300
    assert fell_back > count // 2


def test_files_of_another_checkpoint_or_in_each_others_place_are_detected(
    tmp_path: Path, two_checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["manifest.json", "state.json", "tensors.safetensors", "rows-1.safetensors"]
    pairs = [
        (f"step_000000000200/{one}", f"step_000000000200/{other}") for one, other in itertools.combinations(names, 2)
    ]
    pairs += [(f"step_000000000200/{name}", f"step_000000000100/{name}") for name in names[:3]]
    for first, second in pairs:
        folder = copied(two_checkpoints, tmp_path / "checkpoints")
        contents = (folder / first).read_bytes(), (folder / second).read_bytes()
        (folder / first).write_bytes(contents[1])
        (folder / second).write_bytes(contents[0])
        with pytest.raises(BadInput):
            CheckpointStore(folder).load(200)
    for file in (copied(two_checkpoints, tmp_path / "checkpoints") / "step_000000000200").iterdir():
        file.unlink()
    with pytest.raises(BadInput):
        CheckpointStore(folder).load(200)


def hostile_run(tmp_path: Path) -> tuple[Path, Path]:
    """A run directory with one checkpoint of each kind, and where the canary would appear."""
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    save(store, 100)
    save_best(store, 100)
    return tmp_path / "run", tmp_path / "canary"


WATCHED = ("pickle.", "exec", "compile", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "socket.",
           "marshal.", "import", "shutil.", "os.link", "os.symlink", "os.rename", "os.remove", "os.mkdir")  # fmt: skip


def watch(events: list[str]) -> None:
    """Records whatever this process does from now on that reading a checkpoint must not do."""

    def hook(event: str, args: tuple) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event.startswith(WATCHED):
            events.append(f"{event} {args!r}"[:200])

    sys.addaudithook(hook)


SLOW = "a state of empty lists"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == SLOW else ()) for name in HOSTILE_CHECKPOINTS]
)
def test_a_hostile_checkpoint_is_refused_in_one_line_and_runs_nothing(tmp_path: Path, name: str) -> None:
    run, canary = hostile_run(tmp_path)
    HOSTILE_CHECKPOINTS[name](run, canary)

    def load_all() -> None:
        CheckpointStore(run / "checkpoints").load("best")  # imports everything that is imported late
        events: list[str] = []
        with open("/proc/self/statm") as statm:
            in_use = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**30, in_use + 2**30))
        watch(events)
        start = time.process_time()
        for which in ("latest",) if name in LARGE else ("latest", 100):
            try:
                CheckpointStore(run / "checkpoints").load(which)
                os.write(1, b"LOADED\n")
            except BadInput as error:
                one_line(error)
                os.write(1, b"refused\n")
        os.write(1, "".join(events).encode())
        assert time.process_time() - start < 10  # for two refusals

    status, told = in_child(load_all)
    assert status == 0, told
    assert told == "refused\n" * (1 if name in LARGE else 2)
    assert not canary.exists()
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoints"]


def test_the_payloads_would_touch_the_canary_if_anything_ran_them(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickled(canary))
    assert canary.exists()


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_what_is_swapped_while_it_is_read_is_never_loaded(tmp_path: Path, swapped: str) -> None:
    run, _ = hostile_run(tmp_path)
    shutil.copytree(run, tmp_path / "good")
    for number in itertools.count(2):  # the first call opens the folder
        shutil.rmtree(run)
        shutil.copytree(tmp_path / "good", run)
        folder = newest(run)
        shutil.copytree(folder, run / "evil")
        forge(run / "evil", {"state.json": b'{"evil": true}', "tensors.safetensors": tensor_file.encode({})})

        def swap(count: int, _: str, number: int = number, folder: Path = folder, run: Path = run) -> None:
            if count == number and swapped == "folder":
                folder.rename(run / "aside")
                (run / "evil").rename(folder)
            elif count == number:
                path = folder / "tensors.safetensors"
                path.write_bytes(path.read_bytes()[:-100] + bytes(100))

        with CountedCalls(swap, ("open", "fstat", "sysconf")) as calls:
            try:
                assert loaded_step(CheckpointStore(run / "checkpoints")) == 100
            except BadInput as error:
                one_line(error)
        if calls.count < number:
            break
    assert number > 10


def test_a_chunk_swapped_after_the_checkpoint_was_verified_is_not_loaded(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    save(store, 100)
    checkpoint = store.load("latest")
    path = newest(tmp_path / "run") / "rows-0.safetensors"
    path.unlink()
    path.write_bytes(tensor_file.encode({"reward": torch.full((10,), 9)}))
    with pytest.raises(BadInput, match="SHA-256"):
        list(checkpoint.chunks())
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(BadInput, match=r"rows-0\.safetensors: Too many levels of symbolic links"):
        list(checkpoint.chunks())


def test_a_reader_follows_a_trainer_that_removes_checkpoints_under_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = CheckpointStore(tmp_path / "checkpoints", keep=1)
    save(trainer, 100)
    steps = iter([200, 300])
    saving = False

    def overtake(*_: object) -> None:
        nonlocal saving
        if not saving and (step := next(steps, None)) is not None:
            saving = True
            save(trainer, step)
            saving = False

    with CountedCalls(overtake, ("open",)):
        assert CheckpointStore(tmp_path / "checkpoints").load("latest").step == 300
    assert caplog.records == []


ODD_VALUES = (
    None,
    True,
    -1,
    2**63,
    10**400,
    0.5,
    1e308,
    "",
    "\x1b[2J",
    "../x",
    [],
    {},
    [[1]],
    {"$is": "tensor"},
    {"$is": 1},
)


def mutate(value: dict | list, draw: random.Random) -> None:
    """Replaces or removes a random part of a JSON value."""
    key = draw.choice(sorted(value) if isinstance(value, dict) else range(len(value)))
    if isinstance(value[key], dict | list) and value[key] and draw.random() < 0.7:
        mutate(value[key], draw)
    elif draw.random() < 0.7:
        value[key] = draw.choice(ODD_VALUES)
    else:
        del value[key]


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=full)])
def test_a_checkpoint_with_odd_values_loads_or_is_refused_in_one_line(
    tmp_path: Path, two_checkpoints: Path, count: int
) -> None:
    draw = random.Random(2)
    folder = tmp_path / "step_000000000200"
    refused = 0
    for _ in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(two_checkpoints / folder.name, folder)
        name = draw.choice(["manifest.json", "state.json", "tensors.safetensors", "rows-1.safetensors"])
        content = (folder / name).read_bytes()
        start = 8 if name.endswith("safetensors") else 0
        end = 8 + int.from_bytes(content[:8], "little") if start else len(content)
        value = json.loads(content[start:end])
        mutate(value, draw)
        if name == "manifest.json":
            edit_manifest(folder, lambda manifest, value=value: (manifest.clear(), manifest.update(value)))
        else:
            text = json.dumps(value).encode()
            forge(folder, {name: tensor_file_bytes(text, content[end:]) if start else text})
        try:
            list(CheckpointStore(tmp_path).load("latest").chunks())
        except BadInput as error:
            one_line(error)
            refused += 1
    assert refused > count // 2
