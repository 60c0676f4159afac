"""What goes into a checkpoint comes out again, with the same types, and only the newest and the best stay."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtrl.checkpoints import state_tree
from mtrl.checkpoints import tensor_file
from mtrl.checkpoints.store import CheckpointStore, Chunk
from mtrl.errors import BadInput, StorageFailure
from mtrl.checkpoints.manifest import FORMAT, Manifest
from mtrl.checkpoints.files import Written, free_bytes, require_free_space, write_new_file
from mtrl.checkpoints.strict_json import InvalidJson, dump, parse

TORCH_DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool,
]  # fmt: skip
NUMPY_DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
SHAPES = [(), (0,), (3,), (0, 4), (2, 3, 1)]


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def counting(name: str, calls: list[str], complete: bool = True, value: float = 0.0) -> Chunk:
    """A chunk that notes when it is asked for its tensors."""

    def tensors() -> dict[str, torch.Tensor]:
        calls.append(name)
        return {"reward": torch.full((5,), value), "terminated": torch.zeros(5, dtype=torch.bool)}

    return Chunk(name, complete, tensors)


def assert_same(left: object, right: object) -> None:
    """Equal in value and in type, all the way down."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right) or set(left) == set(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, torch.Tensor | np.ndarray):
        assert left.dtype == right.dtype
        assert tuple(left.shape) == tuple(right.shape)
        assert as_bytes(left) == as_bytes(right)
    else:
        assert repr(left) == repr(right)


def as_bytes(value: torch.Tensor | np.ndarray) -> bytes:
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_every_tensor_dtype_and_shape_comes_back(store: CheckpointStore, dtype: torch.dtype) -> None:
    state = {str(shape): (torch.arange(6)[: int(np.prod(shape))].reshape(shape) % 2).to(dtype) for shape in SHAPES}
    store.save(1, state, info={})
    assert_same(state, store.load("latest").state)


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_every_array_dtype_and_shape_comes_back(store: CheckpointStore, dtype: str) -> None:
    state = {str(shape): (np.arange(6)[: int(np.prod(shape))].reshape(shape) % 2).astype(dtype) for shape in SHAPES}
    state["scalar"] = np.ones((), dtype)[()]
    store.save(1, state, info={})
    assert_same(state, store.load("latest").state)


def test_values_that_json_lacks_and_odd_keys_come_back(store: CheckpointStore) -> None:
    state = {
        "floats": [float("nan"), float("inf"), -float("inf"), -0.0, 0.1, 1e-320],
        "large": 2**127 + 1,
        "a/b": {"~1": torch.ones(2)},
        "a": {"b": {"~1": torch.zeros(2)}},
        "": {"": np.zeros(0)},
        "text": "Grüße \ud800 \x1b[31m\0",
        "empty": {},
        "nothing": None,
        "list": [{"steps": 3, "weights": np.ones(2)}, [], [True]],
    }
    store.save(1, state, info={})
    assert_same(state, store.load("latest").state)


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([torch.arange(3), np.arange(2.0), np.float32(2), torch.tensor(True), np.zeros((2, 0), np.uint32)])
)
keys = st.text(max_size=3).filter(lambda key: not key.startswith("$"))
trees = st.recursive(
    leaves, lambda child: st.lists(child, max_size=3) | st.dictionaries(keys, child, max_size=3), max_leaves=12
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(keys, trees, max_size=3))
def test_any_nested_state_survives_flattening_and_text(state: dict) -> None:
    document, values = state_tree.flatten(state)
    tensors = {name: torch.as_tensor(value) for name, value in values.items()}
    assert_same(state, state_tree.unflatten(parse(dump(document)), tensors))


@pytest.mark.parametrize(
    "value",
    [object(), (1, 2), {1: 2}, {"$is": "nan"}, {1, 2}, b"x", np.array(["a"]), np.array([None]),
     torch.zeros(2).to_sparse(), torch.zeros(2, dtype=torch.complex64), Path("x"), np.zeros(2, "M8[s]"), type, print],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_a_checkpoint_cannot_hold_is_named_by_its_place(store: CheckpointStore, value: object) -> None:
    with pytest.raises(TypeError, match="/agent/deep"):
        store.save(1, {"agent": {"deep": [value]}}, info={})
    assert os.listdir(store.folder) == []


def test_saving_changes_and_shares_nothing_of_the_state(store: CheckpointStore) -> None:
    parameter = torch.nn.Parameter(torch.ones(3, 4))
    state = {"parameter": parameter, "view": parameter.detach().t(), "frozen": np.ones(3)}
    state["frozen"].setflags(write=False)
    store.save(1, state, info={})
    loaded = store.load("latest").state
    loaded["parameter"].zero_()
    assert loaded["view"].sum() == 12
    assert parameter.sum() == 12


def test_a_big_endian_array_comes_back_with_its_values(store: CheckpointStore) -> None:
    store.save(1, {"x": np.arange(5, dtype=">i4")}, info={})
    assert store.load("latest").state["x"].tolist() == [0, 1, 2, 3, 4]


def test_the_tensor_file_is_what_the_safetensors_library_reads_and_writes(tmp_path: Path) -> None:
    tensors = {str(dtype): (torch.arange(6).reshape(2, 3) % 2).to(dtype) for dtype in TORCH_DTYPES}
    tensors |= {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.0)}
    ours = write_new_file(tmp_path / "ours", tensor_file.encode(tensors))
    library = safetensors.torch.load((tmp_path / "ours").read_bytes())
    assert_same(tensors, {name: library[name] for name in tensors})
    arrays = {name: np.ones((2, 3), name) for name in NUMPY_DTYPES}
    theirs = safetensors.numpy.save(arrays, metadata={"made": "elsewhere"})
    written = write_new_file(tmp_path / "theirs", [theirs])
    for path, expected, values in ((tmp_path / "ours", ours, tensors), (tmp_path / "theirs", written, arrays)):
        descriptor = os.open(path, os.O_RDONLY)
        read = tensor_file.read(descriptor, expected)
        os.close(descriptor)
        assert {name: as_bytes(value) for name, value in read.items()} == {
            name: as_bytes(value) for name, value in values.items()
        }


def test_info_versions_step_and_kind_come_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, versions={"metaworld": "3.1.1"})
    path = store.save(12345, {"x": torch.ones(1)}, info={"score": 0.5, "tasks": ["reach-v3"]})
    assert path == tmp_path / "step_000000012345"
    checkpoint = store.load("latest")
    assert (checkpoint.step, checkpoint.kind, checkpoint.path) == (12345, "step", path)
    assert checkpoint.info == {"score": 0.5, "tasks": ["reach-v3"]}
    assert checkpoint.versions["metaworld"] == "3.1.1"
    assert checkpoint.versions["torch"] == torch.__version__


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for keep in (1, 2, 3):
        store = CheckpointStore(tmp_path / str(keep), keep=keep)
        for step in range(5):
            store.save(step, {"step": step}, info={})
        assert store.steps() == list(range(5))[-keep:]
        assert store.load("latest").state == {"step": 4}


def test_one_best_checkpoint_is_kept_beside_the_resumable_ones(store: CheckpointStore) -> None:
    for step in range(4):
        store.save(step, {"step": step}, info={})
        store.save(step, {"policy": step}, kind="best", info={"score": step / 10})
    assert sorted(os.listdir(store.folder)) == ["best_000000000003", "step_000000000002", "step_000000000003"]
    assert store.load("best").state == {"policy": 3}
    assert store.load("best").info["score"] == 0.3


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None, "0.5", True])
def test_a_score_that_is_no_number_never_becomes_best(store: CheckpointStore, score: object) -> None:
    store.save(1, {}, kind="best", info={"score": -1.0})
    with pytest.raises(ValueError, match="finite score"):
        store.save(2, {}, kind="best", info={"score": score})
    assert store.load("best").step == 1


def test_of_two_best_checkpoints_left_by_a_kill_the_better_score_wins(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_prune", lambda *_: None)
    store.save(1, {}, kind="best", info={"score": 0.9})
    store.save(2, {}, kind="best", info={"score": 0.8})
    assert store.load("best").step == 1


def test_a_complete_chunk_is_written_once_and_linked_afterwards(store: CheckpointStore) -> None:
    calls: list[str] = []
    for step in range(1, 5):
        chunks = [counting(f"rows-{index}", calls, value=index) for index in range(step)]
        store.save(step, {}, [*chunks, counting(f"rows-{step}-tail", calls, complete=False)], info={})
    assert calls == ["rows-0", "rows-1-tail", "rows-1", "rows-2-tail", "rows-2", "rows-3-tail", "rows-3", "rows-4-tail"]
    old, new = (store.folder / f"step_{step:012d}/rows-0.safetensors" for step in (3, 4))
    assert old.stat().st_ino == new.stat().st_ino
    names = [name for name, _ in store.load(4).chunks()]
    assert names == ["rows-0", "rows-1", "rows-2", "rows-3", "rows-4-tail"]
    assert [float(tensors["reward"][0]) for _, tensors in store.load(4).chunks()] == [0, 1, 2, 3, 0]


def test_a_resumed_run_links_to_the_chunks_it_has_loaded(store: CheckpointStore) -> None:
    calls: list[str] = []
    store.save(1, {}, [counting("rows-0", calls)], info={})
    resumed = CheckpointStore(store.folder)
    resumed.load("latest")
    resumed.save(2, {}, [counting("rows-0", calls), counting("rows-1", calls)], info={})
    assert calls == ["rows-0", "rows-1"]
    unread = CheckpointStore(store.folder)
    unread.load("latest", with_chunks=False)
    unread.save(3, {}, [counting("rows-0", calls)], info={})
    assert calls == ["rows-0", "rows-1", "rows-0"]


def test_where_links_are_not_supported_chunks_are_written_again(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    calls: list[str] = []
    for step in (1, 2):
        store.save(step, {}, [counting("rows-0", calls, value=7)], info={})
    assert calls == ["rows-0", "rows-0"]
    assert [float(tensors["reward"][0]) for _, tensors in store.load("latest").chunks()] == [7]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "tensors", "a.b", "a--b", "x" * 101, "ä", "rows-\n"])
def test_a_chunk_cannot_have_a_name_that_leaves_the_folder(store: CheckpointStore, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a chunk"):
        store.save(1, {}, [counting(name, [])], info={})
    assert os.listdir(store.folder) == []


def test_two_chunks_of_one_name_are_refused(store: CheckpointStore) -> None:
    with pytest.raises(ValueError, match="two chunks"):
        store.save(1, {}, [counting("rows-0", []), counting("rows-0", [])], info={})


def test_a_whole_checkpoint_of_the_same_step_is_left_alone_and_a_damaged_one_replaced(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.save(1, {"x": 1}, info={})
    before = os.stat(path / "state.json").st_ino
    store.save(1, {"x": 1}, info={})
    assert os.stat(path / "state.json").st_ino == before
    (path / "state.json").write_text("{}")
    store.save(1, {"x": 2}, info={})
    assert store.load("latest").state == {"x": 2}
    assert len(caplog.records) == 1


def test_a_damaged_newest_checkpoint_falls_back_with_one_warning(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        store.save(step, {"step": step}, info={})
    (store.folder / "step_000000000002/tensors.safetensors").unlink()
    with caplog.at_level(logging.WARNING):
        assert store.load("latest").state == {"step": 1}
    (record,) = caplog.records
    assert "tensors.safetensors: No such file" in record.getMessage()
    assert "step 1 instead" in record.getMessage()
    with pytest.raises(BadInput, match="step_000000000002"):
        store.load(2)


def test_a_step_that_is_not_there_is_answered_with_those_that_are(store: CheckpointStore) -> None:
    for step in (100, 200):
        store.save(step, {}, info={})
    with pytest.raises(BadInput, match=r"no checkpoint of step 150 in .*; there are: 100, 200"):
        store.load(150)
    with pytest.raises(BadInput, match="no best checkpoint"):
        store.load("best")
    with pytest.raises(BadInput, match=r"no resumable checkpoint in .*nowhere"):
        CheckpointStore(store.folder / "nowhere").load("latest")


def test_a_run_that_resumes_from_an_older_step_drops_the_newer_ones(store: CheckpointStore) -> None:
    store.keep = 5
    for step in (1, 2, 3):
        store.save(step, {}, info={})
    store.save(3, {}, kind="best", info={"score": 1})
    store.discard_after(1)
    assert sorted(os.listdir(store.folder)) == ["best_000000000003", "step_000000000001"]


def test_leftovers_of_a_killed_save_are_swept(store: CheckpointStore) -> None:
    store.save(1, {}, info={})
    (store.folder / ".tmp-99-step_000000000002").mkdir()
    (store.folder / ".tmp-99-step_000000000002/state.json").write_text("{")
    (store.folder / ".tmp-98").symlink_to(store.folder / "step_000000000001")
    store.sweep()
    assert os.listdir(store.folder) == ["step_000000000001"]
    assert store.load("latest").step == 1


def test_a_later_format_is_named_and_never_passed_over(store: CheckpointStore) -> None:
    for step in (1, 2):
        path = store.save(step, {}, info={})
    fields = json.loads((path / "manifest.json").read_text())
    del fields["checksum"]
    manifest = Manifest.from_bytes((path / "manifest.json").read_bytes())
    later = Manifest(**{**vars(manifest), "format": 7}).to_bytes()
    (path / "manifest.json").write_bytes(later)
    with pytest.raises(BadInput, match="checkpoint format 7 is not known"):
        store.load("latest")


def test_versions_that_changed_since_are_listed(tmp_path: Path) -> None:
    CheckpointStore(tmp_path, versions={"metaworld": "3.1.1", "mujoco": "3.3.0"}).save(1, {}, info={})
    now = CheckpointStore(tmp_path, versions={"metaworld": "3.1.2", "ale-py": "0.12"})
    checkpoint = now.load("latest")
    assert now.version_changes(checkpoint) == [
        "'ale-py' 'unknown', now '0.12'",
        "'metaworld' '3.1.1', now '3.1.2'",
        "'mujoco' '3.3.0', now 'unknown'",
    ]


def test_a_checkpoint_of_every_released_format_loads(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden_checkpoints"
    formats = sorted(path.name for path in golden.iterdir())
    assert formats[-1] == f"format_{FORMAT}"
    for name in formats:
        checkpoint = CheckpointStore(golden / name).load("latest")
        assert (checkpoint.step, checkpoint.info) == (12345, {"suite": "mt3", "tasks": ["reach-v3"]})
        assert_same(checkpoint.state, golden_state())
        ((name, tensors),) = checkpoint.chunks()
        assert name == "rows-000000000000-000000000002"
        assert_same(tensors, {"reward": torch.tensor([0.5, -1.0])})


def golden_state() -> dict:
    """What the checkpoints in `golden_checkpoints` hold."""
    return {
        "agent": {"actor/0.weight": torch.tensor([[1.0, -2.0], [0.5, 3.0]]), "steps": torch.tensor(7)},
        "observation": np.arange(3, dtype=np.float32),
        "counts": np.array([1, 2], np.uint32),
        "draw": np.float64(0.25),
        "ended": np.array([True, False]),
        "streams": [{"state": "170141183460469231731687303715884105727", "has_uint32": 0}],
        "best": -float("inf"),
        "nothing": None,
    }


def test_the_size_of_a_state_is_that_of_its_values() -> None:
    state = {"a": torch.zeros(10), "b": {"c": [np.zeros(3), 5]}, "d": torch.zeros(2, dtype=torch.bool)}
    assert state_tree.state_bytes(state) == 40 + 24 + 2


def test_a_run_without_room_for_two_checkpoints_is_refused(tmp_path: Path) -> None:
    free = free_bytes(tmp_path / "not" / "there" / "yet")
    assert free is not None
    require_free_space(tmp_path / "not" / "there" / "yet", free // 3)
    with pytest.raises(StorageFailure, match=r"needed \d+ bytes .*, free \d+ bytes"):
        require_free_space(tmp_path / "not" / "there" / "yet", free // 2)


@pytest.mark.parametrize(
    "text",
    ['{"a":1,"a":2}', "NaN", "[Infinity]", "[" * 100_000, "[" * 70 + "]" * 70, "1" * 10_000, "{", "",
     '"\udc80"', "[1]x"],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_json_with_two_readings_is_refused(text: str) -> None:
    with pytest.raises(InvalidJson):
        parse(text.encode(errors="surrogatepass"))


def test_json_too_large_to_be_read_back_is_not_written() -> None:
    with pytest.raises(ValueError, match="can be read back"):
        dump("x" * 2**25)


@pytest.fixture
def tensor_bytes(tmp_path: Path) -> tuple[Path, bytes]:
    path = tmp_path / "x.safetensors"
    write_new_file(path, tensor_file.encode({"a": torch.arange(4.0), "b": torch.ones(3, dtype=torch.bool)}))
    return path, path.read_bytes()


def test_every_truncation_of_a_tensor_file_is_refused(tensor_bytes: tuple[Path, bytes]) -> None:
    path, data = tensor_bytes
    for length in range(len(data)):
        path.write_bytes(data[:length])
        descriptor = os.open(path, os.O_RDONLY)
        with pytest.raises(BadInput):
            tensor_file.read(descriptor, Written(length, "0" * 64))
        os.close(descriptor)
