"""A run directory has one trainer, its files are whole at any time, and what is wrong with it is told in one line."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import mtrl
from mtrl.checkpoints.store import CheckpointStore
from mtrl.errors import BadInput, StorageFailure
from mtrl.runs.logs import EvaluationRow
from mtrl.runs.metadata import program_facts, source_revision
from mtrl.runs.run_directory import RunDirectory
from tests.checkpoints.example_checkpoints import CountedCalls, leftovers, one_line
from tests.runs.forked import in_child

PROJECT = Path(__file__).resolve().parents[2]

CHILD = """
import sys
from mtrl.errors import BadInput
from mtrl.runs.run_directory import RunDirectory
for line in sys.stdin:
    action, _, path = line.rstrip("\\n").partition(" ")
    try:
        if action == "close":
            run.close()
            answer = "closed"
        else:
            run = getattr(RunDirectory, action)(path)
            answer = "holds"
    except BadInput as error:
        answer = f"refused {error}"
    print(answer, flush=True)
"""


class Trainer:
    """Another process that opens and closes run directories on command."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, action: Path | str, path: Path | str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{action} {path}\n")
        self.process.stdin.flush()

    def answer(self, *command: Path | str) -> str:
        if command:
            self.tell(*command)
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def started(path: Path) -> RunDirectory:
    run = RunDirectory.create(path)
    run.write_config("suite: {name: mt3}\n")
    run.write_meta({"status": "running"})
    return run


def trained(path: Path) -> RunDirectory:
    run = started(path)
    run.append_metrics({"env_steps": 1, "critic_loss": 0.5})
    return run


@pytest.mark.parametrize("name", ["run", "with space", "Grüße-机器人", "deep/er/run", "quo'te\"s", "\x1b[31mred\nline"])
def test_a_run_directory_can_have_any_name(tmp_path: Path, name: str) -> None:
    with trained(tmp_path / name):
        pass
    with RunDirectory.open(tmp_path / name) as read:
        assert read.config() == "suite: {name: mt3}\n"
        assert read.meta() == {"status": "running", "pid": os.getpid(), "host": socket.gethostname()}
        assert read.metrics.rows() == [{"env_steps": 1, "critic_loss": 0.5}]
    with pytest.raises(BadInput) as caught:
        RunDirectory.create(tmp_path / name)
    one_line(caught.value)


@pytest.mark.parametrize(
    "train",
    [
        lambda run: run.append_metrics({"env_steps": 1}),
        lambda run: run.append_evaluation([EvaluationRow(1, "reach-v3", 1, 0.5, 1.0, "periodic")]),
        lambda run: CheckpointStore(run.checkpoints).save(1, {}, info={}),
    ],
    ids=["metrics", "evaluation", "checkpoint"],
)
def test_a_trained_run_is_refused_with_both_ways_on(tmp_path: Path, train: Callable[[RunDirectory], object]) -> None:
    with started(tmp_path / "a") as run:
        train(run)
    with pytest.raises(BadInput) as caught:
        RunDirectory.create(tmp_path / "a")
    assert "--resume" in one_line(caught.value)
    assert "--overwrite" in one_line(caught.value)
    assert RunDirectory.open(tmp_path / "a").meta()["status"] == "running"


def test_a_run_in_which_nothing_was_trained_is_replaced(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "a").close()  # killed before its first file
    with started(tmp_path / "a") as run:
        run.append_evaluation([])  # a header only
        for folder in (run.tensorboard, run.diagnostics, run.checkpoints / ".tmp-1-step_000000000001"):
            folder.mkdir(parents=True)
    with RunDirectory.create(tmp_path / "a"):
        assert sorted(os.listdir(tmp_path / "a")) == ["lock", "meta.json"]


@pytest.mark.parametrize("names", [[], ["lock"], ["lock", ".tmp-1-meta.json"], ["lock", "meta.json", "config.yaml"]])
def test_a_run_killed_at_its_start_can_be_started_again(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    with RunDirectory.create(tmp_path):
        assert sorted(os.listdir(tmp_path)) == ["lock", "meta.json"]


def test_overwrite_removes_the_files_of_a_run_and_nothing_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    with trained(tmp_path / "a") as run:
        CheckpointStore(run.checkpoints).save(1, {"x": torch.ones(3)}, info={})
        (run.path / "notes.txt").write_text("mine")
        run.tensorboard.symlink_to(outside)
    with RunDirectory.create(tmp_path / "a", overwrite=True):
        assert sorted(os.listdir(tmp_path / "a")) == ["lock", "meta.json", "notes.txt"]
    assert (outside / "precious").read_text() == "x"


def test_overwrite_removes_the_export_and_the_relations_of_the_old_run(tmp_path: Path) -> None:
    with trained(tmp_path / "a") as run:
        for name in ("export/policy.pt2", "relations/cosine/relations.json"):
            (run.path / name).parent.mkdir(parents=True)
            (run.path / name).write_text("of the old run")
    with RunDirectory.create(tmp_path / "a", overwrite=True):
        assert sorted(os.listdir(tmp_path / "a")) == ["lock", "meta.json"]


@pytest.mark.parametrize("names", [["checkpoints/x", "thesis.tex"], ["lock"], ["meta.json"], ["lock", "poetry.toml"]])
def test_a_folder_that_is_no_run_directory_is_never_emptied(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("the key is under the mat")
    for overwrite in (False, True):
        with pytest.raises(BadInput, match="not a run directory"):
            RunDirectory.create(tmp_path, overwrite=overwrite)
    assert [(tmp_path / name).read_text() for name in names] == ["the key is under the mat"] * len(names)


@pytest.mark.parametrize("name", ["checkpoints", "tb", "videos", "diagnostics"])
def test_a_run_directory_with_a_linked_folder_is_refused(tmp_path: Path, name: str) -> None:
    trained(tmp_path / "a").close()
    (tmp_path / "outside").mkdir()
    (tmp_path / "a" / name).symlink_to(tmp_path / "outside")
    for make in (RunDirectory.create, RunDirectory.resume, RunDirectory.open):
        with pytest.raises(BadInput, match=f"{name}' is a link"):
            make(tmp_path / "a")
    assert os.listdir(tmp_path / "outside") == []


@pytest.mark.parametrize("plant", [lambda lock, other: lock.symlink_to(other), lambda lock, other: lock.mkdir()])
def test_a_lock_that_is_no_file_is_refused(tmp_path: Path, plant: Callable[[Path, Path], None]) -> None:
    trained(tmp_path / "a").close()
    (tmp_path / "a" / "lock").unlink()
    plant(tmp_path / "a" / "lock", tmp_path / "elsewhere")
    with pytest.raises(BadInput) as caught:
        RunDirectory.resume(tmp_path / "a")
    one_line(caught.value)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.2.1rc1"])
def test_a_run_of_an_older_version_is_refused_with_the_version_that_reads_it(tmp_path: Path, version: str) -> None:
    with trained(tmp_path / "a") as run:
        run.write_meta({"versions": {"mtrl-suite": version}})
    for make in (RunDirectory.resume, RunDirectory.open):
        with pytest.raises(BadInput, match=f"was written by mtrl-suite '{version}', which reads it"):
            make(tmp_path / "a")
    with RunDirectory.create(tmp_path / "a", overwrite=True) as run:
        run.write_config("")
        run.write_meta({"versions": {"mtrl-suite": mtrl.__version__}})
    assert RunDirectory.open(tmp_path / "a").config() == ""


@pytest.mark.parametrize(
    "path",
    ["", "nul\0byte", "/dev/null", "/dev/null/run", "/proc/run", "x" * 300],
    ids=lambda path: repr(path[:10]),
)
def test_a_path_that_cannot_be_a_run_directory_gets_one_line(path: str) -> None:
    for make in (RunDirectory.create, RunDirectory.resume, RunDirectory.open):
        with pytest.raises(BadInput) as caught:
            make(path)
        one_line(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_gets_one_line(tmp_path: Path) -> None:
    started(tmp_path / "a").close()
    (tmp_path / "a").chmod(0o500)
    (tmp_path / "a" / "lock").chmod(0o400)
    try:
        with pytest.raises(BadInput, match="Permission denied"):
            RunDirectory.create(tmp_path / "a" / "b")
        with pytest.raises(BadInput, match="Permission denied"):
            RunDirectory.resume(tmp_path / "a")
        assert RunDirectory.open(tmp_path / "a").config()
    finally:
        (tmp_path / "a").chmod(0o700)


def test_a_folder_without_a_configuration_cannot_be_resumed_or_evaluated(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        for make in (RunDirectory.resume, RunDirectory.open):
            with pytest.raises(BadInput, match=r"config\.yaml"):
                make(tmp_path / name)


@pytest.mark.parametrize("name", ["config.yaml", "meta.json"])
@pytest.mark.parametrize(
    "plant",
    [
        lambda file: file.symlink_to("/etc/hostname"),
        os.mkfifo,
        lambda file: file.mkdir(),
        lambda file: file.write_bytes(b"\xff\xfe"),
        lambda file: file.write_text("x" * 2**21),
    ],
    ids=["link", "pipe", "folder", "encoding", "size"],
)
def test_a_hostile_file_in_a_run_directory_gets_one_line(
    tmp_path: Path, name: str, plant: Callable[[Path], None]
) -> None:
    with started(tmp_path / "a") as run:
        (run.path / name).unlink()
        plant(run.path / name)
        with pytest.raises(BadInput) as caught:
            run.config() if name == "config.yaml" else run.meta()
        assert name in one_line(caught.value)


@pytest.mark.parametrize("text", ["[]", "{", "NaN", "\x1b[2J", "[" * 10**5])
def test_a_damaged_meta_file_gets_one_line(tmp_path: Path, text: str) -> None:
    with started(tmp_path / "a") as run:
        (run.path / "meta.json").write_text(text)
        with pytest.raises(BadInput) as caught:
            run.meta()
        assert "meta.json" in one_line(caught.value)


def test_a_second_trainer_is_refused_with_the_holders_process(tmp_path: Path) -> None:
    with trained(tmp_path / "a") as run:
        other = Trainer()
        refusal = f"refused run directory {str(tmp_path / 'a')!r} is in use by "
        for action in ("create", "resume"):
            assert other.answer(action, tmp_path / "a") == f"{refusal}process {os.getpid()}"
        assert other.answer("open", tmp_path / "a") == "holds"
        meta = tmp_path / "a" / "meta.json"
        meta.write_text(json.dumps({"pid": 5, "host": "elsewhere"}))
        assert other.answer("resume", tmp_path / "a") == f"{refusal}process 5 on host 'elsewhere'"
        for text in ("{", "[]", '{"pid": "5", "host": 1}', '{"pid": 1%s, "host": "x"}' % ("0" * 99)):
            meta.write_text(text)
            assert other.answer("resume", tmp_path / "a") == f"{refusal}another process"
        run.set_status("done", 0)
    assert other.answer("resume", tmp_path / "a") == "holds"
    with pytest.raises(BadInput, match=f"in use by process {other.process.pid}"):
        RunDirectory.resume(tmp_path / "a")
    other.kill()


def test_the_lock_of_a_killed_trainer_is_free_though_its_worker_lives_on(tmp_path: Path) -> None:
    started(tmp_path / "a").close()

    def train() -> None:
        run = RunDirectory.resume(tmp_path / "a")
        (run.path / ".tmp-1-meta.json").write_text("{")
        if os.fork() == 0:
            os.close(1)
            time.sleep(5)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
        run.close()

    status, told = in_child(train)
    assert os.WTERMSIG(status) == signal.SIGKILL, told
    with RunDirectory.resume(tmp_path / "a"):
        assert sorted(os.listdir(tmp_path / "a")) == ["config.yaml", "lock", "meta.json"]


@pytest.mark.parametrize("races", [6, pytest.param(100, marks=pytest.mark.full)])
def test_of_trainers_that_race_for_a_run_directory_one_wins(tmp_path: Path, races: int) -> None:
    trainers = [Trainer() for _ in range(3)]
    for race in range(races):
        path = tmp_path / str(race)
        if race % 2:
            started(path).close()
        for trainer in trainers:
            trainer.tell("resume" if race % 2 else "create", path)
        answers = [trainer.answer() for trainer in trainers]
        (winner,) = [trainer for trainer, answer in zip(trainers, answers, strict=True) if answer == "holds"]
        assert sum("is in use by" in answer for answer in answers) == 2, answers
        assert winner.answer("close") == "closed"
    for trainer in trainers:
        trainer.kill()


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with trained(tmp_path / "a") as run:
        assert run.metrics.rows()
    assert "has no locks" in caplog.text


def replace(path: Path) -> None:
    path.rename(path.with_name("aside"))
    trained(path).close()


def writes(run: RunDirectory) -> list[Callable[[], None]]:
    return [
        run.check_in_place,
        run.sync,
        lambda: run.write_config(""),
        lambda: run.set_status("done", 0),
        lambda: run.append_metrics({"env_steps": 1}),
        lambda: run.append_evaluation([]),
        lambda: run.truncate_after(1, 2),
    ]


@pytest.mark.parametrize("remove", [shutil.rmtree, replace, lambda path: (path / "lock").unlink()])
def test_a_run_directory_that_was_removed_or_replaced_is_a_storage_failure(
    tmp_path: Path, remove: Callable[[Path], None]
) -> None:
    with trained(tmp_path / "a") as run:
        run.check_in_place()
        remove(run.path)
        before = sorted(tmp_path.rglob("*"))
        for write in writes(run):
            with pytest.raises(StorageFailure, match="was removed or replaced") as caught:
                write()
            one_line(caught.value)
        assert sorted(tmp_path.rglob("*")) == before


def test_only_the_holder_of_the_lock_can_write(tmp_path: Path) -> None:
    started(tmp_path / "a").close()
    with RunDirectory.open(tmp_path / "a") as run:
        for write in writes(run):
            with pytest.raises(ValueError, match="reading only"):
                write()
        assert run.meta()["status"] == "running"


def test_a_full_disk_does_not_leave_a_run_that_seems_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with started(tmp_path / "a") as run:
        run.write_meta({"protocol": "metaworld-plus", "status": "running", "exit_code": None})
        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(StorageFailure, match="No space left"):
            run.set_status("failed", 5)
        meta = run.meta()
        assert (meta["status"], meta["exit_code"], meta["protocol"]) == ("failed", 5, "metaworld-plus")


def test_the_status_changes_and_the_rest_of_the_facts_stays(tmp_path: Path) -> None:
    with started(tmp_path / "a") as run:
        run.write_meta({"protocol": "metaworld-plus", **program_facts(["mujoco", "no-such-package"])})
        run.set_status("failed", 4)
        meta = run.meta()
        assert (meta["status"], meta["exit_code"], meta["protocol"]) == ("failed", 4, "metaworld-plus")
        assert meta["versions"]["torch"] == version("torch")
        assert meta["versions"]["no-such-package"] == "not installed"
        assert meta["cores"] >= 1
        (run.path / "meta.json").write_text("{")
        run.set_status("done", 0)
        assert (run.meta()["status"], run.meta()["exit_code"]) == ("done", 0)


def test_the_source_revision_is_a_commit_or_nothing(tmp_path: Path) -> None:
    assert source_revision(tmp_path) is None
    revision = source_revision(PROJECT)
    assert revision is None or (len(revision["commit"]) == 40 and isinstance(revision["modified"], bool))


@pytest.mark.parametrize(
    ("name", "write", "calls"),
    [
        ("config.yaml", lambda run: run.write_config("new"), ("write", "fsync", "replace", "open")),
        ("meta.json", lambda run: run.write_meta({"new": 1}), ("write", "fsync", "replace", "open")),
        ("metrics.jsonl", lambda run: run.append_metrics({"env_steps": 1}), ("open", "write")),
        ("eval.csv", lambda run: run.append_evaluation([]), ("open", "write")),
    ],
)
def test_a_full_disk_is_one_storage_failure_and_the_old_file_stays(
    tmp_path: Path, name: str, write: Callable[[RunDirectory], None], calls: tuple[str, ...]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with started(tmp_path / "a") as run:
        before = run.config(), run.meta()
        for call in calls:
            with CountedCalls(fail, [call]), pytest.raises(StorageFailure) as caught:
                write(run)
            assert f"{name}': No space left on device: needed" in one_line(caught.value)
        assert (run.config(), run.meta()) == before
        assert leftovers(run.path) == []


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    texts = [letter * 200_000 for letter in "ab"]
    with started(tmp_path / "a") as run:
        run.write_config(texts[0])
        writer = threading.Thread(target=lambda: [run.write_config(text) for text in 50 * texts])
        writer.start()
        while writer.is_alive():
            assert RunDirectory.open(tmp_path / "a").config() in texts
        writer.join()
