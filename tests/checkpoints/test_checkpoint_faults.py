"""Kills, full disks, damage and malice: a checkpoint stands whole, or is known not to, and never runs code."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import malicious_files
import pytest
import torch
from forked import in_child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malicious_files import HOSTILE_CHECKPOINTS, LARGE, forge, newest, sign

from mtrl.checkpoints import checkpoint as checkpoint_folder
from mtrl.checkpoints import tensor_file
from mtrl.checkpoints.store import CheckpointStore, Chunk
from mtrl.errors import BadInput, StorageFailure

PROJECT = Path(__file__).resolve().parents[2]

CHANGES = ("open", "write", "fsync", "link", "replace", "rename", "unlink", "mkdir", "rmdir")
"""What a save asks of the system that can change what is on the disk, by its name in `os`."""

CALLS = (*CHANGES, "close", "stat")
"""What can fail."""

full = pytest.mark.full


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of syncs then do not wait for a disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="checkpoints-") as folder:
        yield Path(folder)


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
    expected = make_state(checkpoint.step, size)
    assert torch.equal(checkpoint.state["agent"]["weight"], expected["agent"]["weight"])
    assert {"step": checkpoint.state["step"], "steps": checkpoint.state["agent"]["steps"]} == {
        "step": checkpoint.step,
        "steps": [checkpoint.step, None],
    }
    if which == "latest":
        assert checkpoint.info == {"note": checkpoint.step}
        chunks = list(checkpoint.chunks())
        expected_chunks = make_chunks(checkpoint.step)
        assert [name for name, _ in chunks] == [chunk.name for chunk in expected_chunks]
        for (_, tensors), chunk in zip(chunks, expected_chunks, strict=True):
            assert torch.equal(tensors["reward"], chunk.tensors()["reward"])
    return checkpoint.step


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
    """Stands in for the file calls of `os` and acts before the ones that `trigger` picks by their number."""

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


def kill_at(number: int) -> CountedCalls:
    def trigger(count: int, _: str) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return CountedCalls(trigger, CHANGES)


def two_checkpoints(folder: Path, keep: int) -> None:
    store = CheckpointStore(folder, keep)
    save(store, 100)
    save(store, 200)
    save_best(store, 200)
    (folder / ".tmp-1-step_000000000300").mkdir()
    (folder / ".tmp-1-step_000000000300" / "state.json").write_text("{")


def save_another(folder: Path, keep: int) -> None:
    """What a resumed trainer does: loads, saves, saves a new best; tells each that is done."""
    store = CheckpointStore(folder, keep)
    store.load("latest")
    save(store, 300)
    os.write(1, b"step\n")
    save_best(store, 300)
    os.write(1, b"best\n")


@pytest.mark.parametrize("keep", [1, 2, pytest.param(3, marks=full)])
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
            with kill_at(number):
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


@pytest.mark.parametrize(("kills", "size"), [(50, 1_000_000), pytest.param(200, 25_000_000, marks=full)])
def test_random_kills_lose_no_checkpoint_that_was_announced(tmp_path: Path, kills: int, size: int) -> None:
    draw = random.Random(0)
    store = CheckpointStore(tmp_path / "checkpoints")
    start = time.monotonic()
    save(store, 100, size)
    seconds = time.monotonic() - start
    announced = 100

    def keep_saving() -> None:
        torch.set_num_threads(1)  # a forked process has none of its parent's threads
        own = CheckpointStore(store.folder)
        for step in itertools.count(own.load("latest").step + 100, 100):
            save(own, step, size)
            os.write(1, f"{step}\n".encode())

    for _ in range(kills):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.dup2(writer, 1)
                keep_saving()
            finally:
                os._exit(1)
        os.close(writer)
        time.sleep(draw.uniform(0.01, 0.02 + 4 * seconds))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        with os.fdopen(reader) as output:
            announced = max([announced, *map(int, output.read().split())])
        assert len(leftovers(store.folder)) <= 1
        assert loaded_step(CheckpointStore(store.folder), size=size) >= announced
    assert announced > 500


class Quota:
    """A disk that takes so many more bytes, a part of the last write included."""

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
    for point in range(50):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", Quota(measure.taken * point // 50).write)
            with pytest.raises(StorageFailure) as caught:
                save(store, 300, 50_000)
        message = one_line(caught.value)
        assert "step_000000000300' : No space left".replace("' :", "':") in message
        assert "needed 2" in message
        assert "free " in message
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


TMPFS = """
import sys, torch
from pathlib import Path
from mtrl.checkpoints.store import CheckpointStore
from mtrl.errors import StorageFailure
store = CheckpointStore(Path(sys.argv[1]) / "checkpoints")
for step in range(1, 6):
    try:
        store.save(step, {"x": torch.full((step * 100_000,), 1.0)}, info={})
    except StorageFailure as error:
        print(error)
print(store.steps(), store.load("latest").step, sorted(p.name for p in store.folder.iterdir()))
"""


def test_a_really_full_file_system_keeps_the_previous_checkpoints(tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o size=3m tmpfs "$1" && exec {sys.executable} -c "$2" "$1"'
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*own_mounts, "true"], capture_output=True).returncode:
        pytest.skip("no private mounts here")
    command = [*own_mounts, "sh", "-c", script, "sh", str(tmp_path), TMPFS]
    told = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert len(told) == 3, told
    for line, needed in zip(told[:2], (1_600_000, 2_000_000), strict=True):
        assert f"No space left on device: needed {needed}"[:-3] in line
        assert ", free " in line
    assert told[2] == "[2, 3] 3 ['step_000000000002', 'step_000000000003']"


Damage = Callable[[Path, random.Random], None]


def flip_a_bit(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


def extend(path: Path, draw: random.Random) -> None:
    with open(path, "ab") as file:
        file.write(draw.randbytes(draw.randrange(1, 100)))


def zero_a_block(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = draw.randrange(len(data))
    block = data[start : start + 64]
    data[start : start + 64] = bytes(byte ^ 0xFF for byte in block) if not any(block) else bytes(len(block))
    path.write_bytes(data)


def remove(path: Path, _: random.Random) -> None:
    path.unlink()


def empty(path: Path, _: random.Random) -> None:
    path.write_bytes(b"")


def empty_the_folder(path: Path, _: random.Random) -> None:
    for file in path.parent.iterdir():
        file.unlink()


def take_from_the_other(path: Path, _: random.Random) -> None:
    other = path.parent.parent / "step_000000000100" / path.name
    source = other if other.exists() else path.parent / "tensors.safetensors"
    os.replace(shutil.copy(source, path.with_name("copy")), path)


def swap_within(path: Path, draw: random.Random) -> None:
    other = draw.choice([file for file in path.parent.iterdir() if file != path])
    os.rename(path, path.with_name("aside"))
    os.rename(other, path)
    os.rename(path.with_name("aside"), other)


DAMAGES: list[Damage] = [
    flip_a_bit, truncate, extend, zero_a_block, remove, empty, empty_the_folder, take_from_the_other, swap_within
]  # fmt: skip


@pytest.fixture(scope="module")
def damaged_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage") / "checkpoints"
    store = CheckpointStore(folder)
    save(store, 100)
    save(store, 200)
    return folder


@pytest.mark.parametrize("count", [108, pytest.param(1000, marks=full)])
def test_every_damage_is_detected(
    quick_path: Path, damaged_base: Path, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    draw = random.Random(1)
    fell_back, lost = 0, {True}
    for number in range(count):
        folder = quick_path / "checkpoints"
        # Links kept: a chunk that both checkpoints share is one file, whose damage neither survives.
        subprocess.run(["cp", "-a", damaged_base, folder], check=True)
        files = sorted((folder / "step_000000000200").iterdir())
        before = digest(folder)
        while digest(folder) == before:  # what is taken from the other checkpoint may be the same
            DAMAGES[number % len(DAMAGES)](draw.choice(files), draw)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            try:
                assert loaded_step(CheckpointStore(folder)) == 100
                assert len(caplog.records) == 1
                one_line(Exception(caplog.records[0].getMessage()))
                fell_back += 1
            except BadInput as error:  # damage to the file that both checkpoints link to
                lost.add("rows-0.safetensors" in one_line(error))
                assert caplog.records == []
        with pytest.raises(BadInput):
            CheckpointStore(folder).load(200)
        save(CheckpointStore(folder), 300)
        assert loaded_step(CheckpointStore(folder)) == 300
        shutil.rmtree(folder)
    assert lost == {True}
    assert fell_back > count // 2


def hostile_run(tmp_path: Path) -> tuple[Path, Path]:
    """A run directory with one checkpoint of each kind, and where the canary would appear."""
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    save(store, 100)
    save_best(store, 100)
    return tmp_path / "run", tmp_path / "canary"


WATCHED = ("pickle.", "exec", "compile", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "socket.",
           "marshal.", "import", "shutil.", "os.link", "os.symlink", "os.rename", "os.remove", "os.mkdir")  # fmt: skip


def watch(events: list[str]) -> None:
    """Notes whatever this process does from now on that reading a checkpoint must not do."""

    def hook(event: str, args: tuple) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event.startswith(WATCHED):
            events.append(f"{event} {args!r}"[:200])

    sys.addaudithook(hook)


@pytest.mark.parametrize("name", HOSTILE_CHECKPOINTS)
def test_a_hostile_checkpoint_is_refused_in_one_line_and_runs_nothing(tmp_path: Path, name: str) -> None:
    run, canary = hostile_run(tmp_path)
    HOSTILE_CHECKPOINTS[name](run, canary)

    def load_all() -> None:
        CheckpointStore(run / "checkpoints").load("best")  # whatever is imported late is imported now
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
    import pickle

    canary = tmp_path / "canary"
    pickle.loads(malicious_files.pickled(canary))
    assert canary.exists()


def swap_before(monkeypatch: pytest.MonkeyPatch, number: int, swap: Callable[[], None]) -> None:
    """Lets `swap` happen just before the given read of a tensor file."""
    reads = itertools.count(1)
    original = os.readv

    def read(*args: object) -> int:
        if next(reads) == number:
            swap()
        return original(*args)

    monkeypatch.setattr(os, "readv", read)


@pytest.mark.parametrize("number", range(1, 8))
def test_a_file_changed_while_it_is_read_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    save(store, 100)
    path = newest(tmp_path / "run") / "tensors.safetensors"
    good = path.read_bytes()

    def swap() -> None:
        path.write_bytes(good[:-100] + bytes(100))

    swap_before(monkeypatch, number, swap)
    with contextlib.suppress(BadInput):
        assert loaded_step(store) == 100


def test_a_chunk_swapped_after_the_check_is_not_handed_out(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    save(store, 100)
    checkpoint = store.load("latest")
    path = newest(tmp_path / "run") / "rows-0.safetensors"
    evil = tensor_file.encode({"reward": torch.full((10,), 9)})
    path.unlink()
    path.write_bytes(b"".join(bytes(part) for part in evil))
    with pytest.raises(BadInput, match="SHA-256"):
        list(checkpoint.chunks())
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(BadInput, match=r"rows-0\.safetensors: Too many levels of symbolic links"):
        list(checkpoint.chunks())


def test_a_folder_swapped_while_it_is_read_gives_the_first_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = hostile_run(tmp_path)
    folder = newest(run)
    shutil.copytree(folder, run / "evil")
    forge(run / "evil", {"state.json": b'{"evil": true}'})

    def swap() -> None:
        folder.rename(run / "aside")
        (run / "evil").rename(folder)

    swap_before(monkeypatch, 1, swap)
    assert loaded_step(CheckpointStore(run / "checkpoints")) == 100


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.text(max_size=8), child, max_size=3),
    max_leaves=5,
)


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    """The path of everything in a JSON value."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


def mutate(data: st.DataObject, value: dict) -> dict:
    """The value with one to three of its parts replaced or taken away."""
    for _ in range(data.draw(st.integers(1, 3))):
        paths = list(places(value))
        if not paths:
            break
        *parents, last = data.draw(st.sampled_from(paths))
        holder = value
        for key in parents:
            holder = holder[key]
        if data.draw(st.booleans()):
            holder[last] = data.draw(json_values)
        else:
            del holder[last]
    return value


def header_of(content: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def fuzz(base: Path, data: st.DataObject) -> None:
    """Changes one file of a checkpoint at random, under right checksums, and loads it."""
    folder = base.parent / "fuzzed" / "step_000000000200"
    shutil.rmtree(folder.parent, ignore_errors=True)
    shutil.copytree(base / "step_000000000200", folder)
    name = data.draw(st.sampled_from(["manifest.json", "state.json", "tensors.safetensors", "rows-1.safetensors"]))
    content = (folder / name).read_bytes()
    if name == "manifest.json":
        manifest = mutate(data, json.loads(content))
        manifest.pop("checksum", None)
        sign(folder, manifest)
    elif name == "state.json":
        forge(folder, {name: json.dumps(mutate(data, json.loads(content))).encode()})
    else:
        header, values = header_of(content)
        forge(folder, {name: malicious_files.tensor_file_bytes(mutate(data, header), values)})
    try:
        checkpoint = CheckpointStore(folder.parent).load("latest")
        list(checkpoint.chunks())
    except BadInput as error:
        one_line(error)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
@given(st.data())
def test_a_fuzzed_checkpoint_loads_or_is_refused_in_one_line(damaged_base: Path, data: st.DataObject) -> None:
    fuzz(damaged_base, data)


@full
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.data())
def test_five_thousand_fuzzed_checkpoints_load_or_are_refused(damaged_base: Path, data: st.DataObject) -> None:
    fuzz(damaged_base, data)


def test_a_reader_follows_a_trainer_that_removes_checkpoints_under_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "checkpoints"
    trainer = CheckpointStore(folder, keep=1)
    save(trainer, 100)
    original = checkpoint_folder.open_folder
    steps = itertools.count(200, 100)

    def overtaken(path: Path) -> int:
        if (step := next(steps)) <= 300:
            save(trainer, step)
        return original(path)

    monkeypatch.setattr(checkpoint_folder, "open_folder", overtaken)
    assert CheckpointStore(folder).load("latest").step == 300
    assert caplog.records == []
