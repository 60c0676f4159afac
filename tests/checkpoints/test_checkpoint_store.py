"""The newest and the best checkpoints are kept, damaged ones are passed over, and other formats are named."""

from __future__ import annotations

import logging
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from mtrl.checkpoints.files import free_bytes, require_free_space
from mtrl.checkpoints.manifest import FORMAT
from mtrl.checkpoints.store import CheckpointStore
from mtrl.errors import BadInput, StorageFailure
from mtrl.types import Chunk
from tests.checkpoints.example_checkpoints import assert_same
from tests.checkpoints.malicious_files import edit_manifest

GOLDEN = Path(__file__).parent / "golden_checkpoints"


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def counted_chunk(name: str, calls: list[str], complete: bool = True, value: float = 0.0) -> Chunk:
    """A chunk that records in `calls` when it is asked for its tensors."""

    def tensors() -> dict[str, torch.Tensor]:
        calls.append(name)
        return {"reward": torch.full((5,), value), "terminated": torch.zeros(5, dtype=torch.bool)}

    return Chunk(name, complete, tensors)


def test_info_versions_step_and_kind_come_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, versions={"metaworld": "3.1.1"})
    path = store.save(12345, {"x": torch.ones(1)}, info={"score": 0.5, "tasks": ["reach-v3", "ü"]})
    assert path == tmp_path / "step_000000012345"
    checkpoint = store.load("latest")
    assert (checkpoint.step, checkpoint.kind, checkpoint.path) == (12345, "step", path)
    assert checkpoint.info == {"score": 0.5, "tasks": ["reach-v3", "ü"]}
    assert checkpoint.versions["metaworld"] == "3.1.1"
    assert checkpoint.versions["torch"] == version("torch")  # not torch.__version__, which also names the build


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for keep in range(1, 8):
        store = CheckpointStore(tmp_path / str(keep), keep=keep)
        for step in range(6):
            store.save(step, {"step": step}, info={})
            assert store.steps() == list(range(step + 1))[-keep:]
        assert store.load("latest").state == {"step": 5}


def test_one_best_checkpoint_is_kept_beside_the_resumable_ones(store: CheckpointStore) -> None:
    for step in range(4):
        store.save(step, {"step": step}, info={})
        store.save(step, {"policy": step}, kind="best", info={"score": step / 10})
    assert sorted(os.listdir(store.folder)) == ["best_000000000003", "step_000000000002", "step_000000000003"]
    assert store.load("best").state == {"policy": 3}
    assert store.load("best").info["score"] == 0.3


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 10**400, None, "0.5", True], ids=lambda s: str(s)[:5])
def test_a_score_that_is_no_number_never_becomes_best(store: CheckpointStore, score: object) -> None:
    path = store.save(1, {}, kind="best", info={"score": -1.0})
    with pytest.raises(ValueError, match="finite score"):
        store.save(2, {}, kind="best", info={"score": score})
    assert store.load("best").step == 1
    if score == score and score != float("inf"):  # what a manifest can hold, if not by our hand
        shutil.copytree(path, path.with_name("best_000000000002"))
        edit_manifest(path.with_name("best_000000000002"), lambda m: m.update(step=2, info={"score": score}))
        assert store.load("best").step == 1


def test_of_two_best_checkpoints_left_by_a_kill_the_better_score_wins(store: CheckpointStore, tmp_path: Path) -> None:
    first = store.save(1, {}, kind="best", info={"score": 0.9})
    shutil.copytree(first, tmp_path / "copy")
    store.save(2, {}, kind="best", info={"score": 0.8})
    shutil.copytree(tmp_path / "copy", first)
    assert store.load("best").step == 1


def test_a_complete_chunk_is_written_once_and_linked_afterwards(store: CheckpointStore) -> None:
    calls: list[str] = []
    for step in range(1, 5):
        chunks = [counted_chunk(f"rows-{index}", calls, value=index) for index in range(step)]
        store.save(step, {}, [*chunks, counted_chunk(f"rows-{step}-tail", calls, complete=False)], info={})
    assert calls == ["rows-0", "rows-1-tail", "rows-1", "rows-2-tail", "rows-2", "rows-3-tail", "rows-3", "rows-4-tail"]
    old, new = (store.folder / f"step_{step:012d}/rows-0.safetensors" for step in (3, 4))
    assert old.stat().st_ino == new.stat().st_ino
    chunks = [(name, float(tensors["reward"][0])) for name, tensors in store.load(4).chunks()]
    assert chunks == [("rows-0", 0), ("rows-1", 1), ("rows-2", 2), ("rows-3", 3), ("rows-4-tail", 0)]


def test_a_resumed_run_links_to_the_chunks_it_has_verified(store: CheckpointStore) -> None:
    calls: list[str] = []
    store.save(1, {}, [counted_chunk("rows-0", calls)], info={})
    resumed = CheckpointStore(store.folder)
    resumed.load("latest")
    resumed.save(2, {}, [counted_chunk("rows-0", calls), counted_chunk("rows-1", calls)], info={})
    assert calls == ["rows-0", "rows-1"]
    unread = CheckpointStore(store.folder)
    unread.load("latest", with_chunks=False)
    unread.save(3, {}, [counted_chunk("rows-0", calls)], info={})
    assert calls == ["rows-0", "rows-1", "rows-0"]


def test_where_links_are_not_supported_chunks_are_written_again(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    calls: list[str] = []
    for step in (1, 2):
        store.save(step, {}, [counted_chunk("rows-0", calls, value=7)], info={})
    assert calls == ["rows-0", "rows-0"]
    assert [float(tensors["reward"][0]) for _, tensors in store.load("latest").chunks()] == [7]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "tensors", "a.b", "a--b", "x" * 101, "ä", "rows-\n"])
def test_a_chunk_cannot_have_a_name_that_leaves_the_folder(store: CheckpointStore, name: str) -> None:
    with pytest.raises(ValueError, match=r"name|pattern|characters"):
        store.save(1, {}, [counted_chunk(name, [])], info={})
    assert os.listdir(store.folder) == []


def test_two_chunks_of_one_name_are_refused(store: CheckpointStore) -> None:
    with pytest.raises(ValueError, match=r"two files .* 'rows-0\.safetensors'"):
        store.save(1, {}, [counted_chunk("rows-0", []), counted_chunk("rows-0", [])], info={})


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


def test_a_best_one_of_another_score_takes_the_place_of_that_of_an_inexact_resume(store: CheckpointStore) -> None:
    for score in (0.9, 0.5):
        store.save(3, {"weight": torch.full((2,), score)}, kind="best", info={"score": score})
    best = store.load("best")
    assert best.info["score"] == 0.5
    assert best.state["weight"].tolist() == [0.5, 0.5]


def test_leftovers_of_a_killed_save_are_swept(store: CheckpointStore) -> None:
    store.save(1, {}, info={})
    (store.folder / ".tmp-99-step_000000000002").mkdir()
    (store.folder / ".tmp-99-step_000000000002/state.json").write_text("{")
    (store.folder / ".tmp-98").symlink_to(store.folder / "step_000000000001")
    store.sweep()
    assert os.listdir(store.folder) == ["step_000000000001"]
    assert store.load("latest").step == 1


def test_versions_that_changed_since_are_listed(tmp_path: Path) -> None:
    CheckpointStore(tmp_path, versions={"metaworld": "3.1.1", "mujoco": "3.3.0"}).save(1, {}, info={})
    now = CheckpointStore(tmp_path, versions={"metaworld": "3.1.2", "ale-py": "0.12"})
    assert now.version_changes(now.load("latest")) == [
        "'ale-py' 'unknown', now '0.12'",
        "'metaworld' '3.1.1', now '3.1.2'",
        "'mujoco' '3.3.0', now 'unknown'",
    ]


def test_a_later_format_is_named_and_never_passed_over(store: CheckpointStore) -> None:
    for step in (1, 2):
        path = store.save(step, {}, info={})
    edit_manifest(path, lambda manifest: manifest.update(format=7))
    with pytest.raises(BadInput, match="checkpoint format 7 is not known to this version"):
        store.load("latest")


def test_a_checkpoint_of_an_older_version_is_refused_with_the_version_that_reads_it() -> None:
    for which in ("latest", 12345):
        with pytest.raises(BadInput, match=r"format 1 was written by an older version .* mtrl-suite 0\.2 reads it"):
            CheckpointStore(GOLDEN / "format_1").load(which)


def test_a_checkpoint_of_the_current_format_still_loads() -> None:
    checkpoint = CheckpointStore(GOLDEN / f"format_{FORMAT}").load("latest")
    assert (checkpoint.step, checkpoint.info) == (12345, {"suite": "mt3", "tasks": ["reach-v3"]})
    assert_same(checkpoint.state, golden_state())
    ((name, tensors),) = checkpoint.chunks()
    assert name == "rows-000000000000-000000000002"
    assert_same(tensors, golden_chunk().tensors())


def golden_state() -> dict:
    """State of the checkpoint in `golden_checkpoints`."""
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


def golden_chunk() -> Chunk:
    return Chunk("rows-000000000000-000000000002", True, lambda: {"reward": torch.tensor([0.5, -1.0])})


def write_golden_checkpoint() -> None:
    """Called by hand when the format changes."""
    store = CheckpointStore(GOLDEN / f"format_{FORMAT}")
    store.save(12345, golden_state(), [golden_chunk()], info={"suite": "mt3", "tasks": ["reach-v3"]})


def test_a_run_without_room_for_two_checkpoints_is_refused(tmp_path: Path) -> None:
    free = free_bytes(tmp_path / "not" / "there" / "yet")
    assert free is not None
    require_free_space(tmp_path / "not" / "there" / "yet", free // 3)
    with pytest.raises(StorageFailure, match=r"needed \d+ bytes .*, free \d+ bytes"):
        require_free_space(tmp_path / "not" / "there" / "yet", free // 2)
