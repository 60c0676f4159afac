"""One trainer per run directory, files whole at any time, and one line for whatever is wrong with the folder."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from mtrl.checkpoints.store import CheckpointStore
from mtrl.errors import BadInput, StorageFailure
from mtrl.runs.run_directory import RunDirectory
from mtrl.runs.logs import EvaluationRow
from mtrl.runs.metadata import program_facts, source_revision
from mtrl.loggers.tensorboard import TensorBoardSink

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
    """Another process that takes and leaves run directories on command."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, action: str, path: Path | str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{action} {path}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def one_line(error: BaseException) -> str:
    text = str(error)
    assert len(text) <= 300
    assert text.isprintable()
    return text


def started(path: Path) -> RunDirectory:
    run = RunDirectory.create(path)
    run.write_config("suite: {name: mt3}\n")
    run.write_meta({"status": "running"})
    return run


@pytest.mark.parametrize("name", ["run", "with space", "Grüße-机器人", "deep/er/run", "quo'te\"s"])
def test_a_new_run_directory_takes_any_name(tmp_path: Path, name: str) -> None:
    with started(tmp_path / name) as run:
        run.append_metrics({"env_steps": 1, "critic_loss": 0.5})
    with RunDirectory.open(tmp_path / name) as read:
        assert read.config() == "suite: {name: mt3}\n"
        assert read.meta() == {"status": "running"}
        assert read.metrics.rows() == [{"env_steps": 1, "critic_loss": 0.5}]


def test_the_current_folder_can_be_a_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    started(Path()).close()
    with RunDirectory.resume(".") as run:
        assert run.meta() == {"status": "running"}


def test_an_existing_run_is_refused_with_both_ways_on(tmp_path: Path) -> None:
    started(tmp_path / "a").close()
    with pytest.raises(BadInput) as caught:
        RunDirectory.create(tmp_path / "a")
    assert "--resume" in one_line(caught.value)
    assert "--overwrite" in one_line(caught.value)
    assert RunDirectory.open(tmp_path / "a").config()


def test_overwrite_removes_what_a_run_holds_and_nothing_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    with started(tmp_path / "a") as run:
        run.append_metrics({"env_steps": 1})
        CheckpointStore(run.checkpoints).save(1, {"x": torch.ones(3)}, info={})
        (run.path / "notes.txt").write_text("mine")
        run.tensorboard.symlink_to(outside)
    with RunDirectory.create(tmp_path / "a", overwrite=True):
        assert sorted(os.listdir(tmp_path / "a")) == ["lock", "notes.txt"]
    assert (outside / "precious").read_text() == "x"


def test_a_folder_that_is_no_run_directory_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(BadInput, match="not a run directory"):
            RunDirectory.create(tmp_path, overwrite=overwrite)
    assert sorted(os.listdir(tmp_path)) == ["checkpoints", "thesis.tex"]


def test_a_foreign_file_named_lock_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("the key is under the mat")
    with pytest.raises(BadInput, match="not the lock of a run directory"):
        RunDirectory.create(tmp_path, overwrite=True)
    assert (tmp_path / "lock").read_text() == "the key is under the mat"


def test_a_run_killed_before_its_first_file_can_be_started_again(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "a").close()
    RunDirectory.create(tmp_path / "a").close()


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


def test_hostile_files_in_a_run_directory_get_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    started(path).close()
    secret = tmp_path / "secret"
    secret.write_text("password")
    for name in ("config.yaml", "meta.json"):
        for plant in (
            lambda file: file.symlink_to(secret),
            os.mkfifo,
            lambda file: file.mkdir(),
            lambda file: file.write_bytes(b"\xff\xfe"),
            lambda file: file.write_text("x" * 2**21),
        ):
            (path / name).rename(tmp_path / "aside")
            plant(path / name)
            run = RunDirectory(path, None)
            with pytest.raises(BadInput) as caught:
                run.config() if name == "config.yaml" else run.meta()
            assert "password" not in one_line(caught.value)
            (path / name).rmdir() if (path / name).is_dir() else (path / name).unlink()
            (tmp_path / "aside").rename(path / name)
    for text in ('{"a": 1, "a": 2}', "[]", "{", "\x1b[2J"):
        (path / "meta.json").write_text(text)
        with pytest.raises(BadInput) as caught:
            RunDirectory.open(path).meta()
        one_line(caught.value)


def test_a_name_with_terminal_escapes_does_not_reach_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[31mred\nline"
    started(path).close()
    with pytest.raises(BadInput) as caught:
        RunDirectory.create(path)
    one_line(caught.value)


def test_a_second_trainer_is_told_the_first_ones_process(tmp_path: Path) -> None:
    with started(tmp_path / "a"):
        other = Trainer()
        for action in ("create", "resume"):
            other.tell(action, tmp_path / "a")
            assert other.answer() == f"refused run directory {str(tmp_path / 'a')!r} is in use by process {os.getpid()}"
        other.tell("open", tmp_path / "a")
        assert other.answer() == "holds"
    other.tell("resume", tmp_path / "a")
    assert other.answer() == "holds"
    with pytest.raises(BadInput, match=f"in use by process {other.process.pid}"):
        RunDirectory.resume(tmp_path / "a")
    other.kill()


def test_the_lock_of_a_killed_trainer_is_free_at_once(tmp_path: Path) -> None:
    started(tmp_path / "a").close()
    (tmp_path / "a" / ".tmp-1-meta.json").write_text("{")
    trainer = Trainer()
    trainer.tell("resume", tmp_path / "a")
    assert trainer.answer() == "holds"
    os.kill(trainer.process.pid, signal.SIGKILL)
    trainer.kill()
    (tmp_path / "a" / ".tmp-1-meta.json").write_text("{")
    with RunDirectory.resume(tmp_path / "a"):
        assert sorted(os.listdir(tmp_path / "a")) == ["config.yaml", "lock", "meta.json"]


@pytest.mark.parametrize("races", [15, pytest.param(100, marks=pytest.mark.full)])
def test_of_trainers_that_race_for_a_run_directory_one_wins(tmp_path: Path, races: int) -> None:
    trainers = [Trainer() for _ in range(3)]
    try:
        for race in range(races):
            path = tmp_path / str(race)
            if race % 2:
                started(path).close()
            for trainer in trainers:
                trainer.tell("resume" if race % 2 else "create", path)
            answers = [trainer.answer() for trainer in trainers]
            (winner,) = [trainer for trainer, answer in zip(trainers, answers, strict=True) if answer == "holds"]
            losers = [answer for answer in answers if answer != "holds"]
            assert all(answer.endswith(f"in use by process {winner.process.pid}") for answer in losers), losers
            winner.tell("close")
            assert winner.answer() == "closed"
    finally:
        for trainer in trainers:
            trainer.kill()


def test_only_the_holder_of_the_lock_can_write(tmp_path: Path) -> None:
    started(tmp_path / "a").close()
    with RunDirectory.open(tmp_path / "a") as run:
        for write in (
            lambda: run.write_config(""),
            lambda: run.set_status("done", 0),
            lambda: run.append_metrics({"env_steps": 1}),
            lambda: run.append_evaluation([]),
            lambda: run.truncate_after(1),
        ):
            with pytest.raises(ValueError, match="reading only"):
                write()
    assert json.loads((tmp_path / "a" / "meta.json").read_text()) == {"status": "running"}


def test_the_status_changes_and_the_rest_of_the_facts_stays(tmp_path: Path) -> None:
    with started(tmp_path / "a") as run:
        run.write_meta({"protocol": "metaworld-plus", **program_facts(["mujoco", "no-such-package"])})
        run.set_status("failed", 4)
        meta = run.meta()
        assert (meta["status"], meta["exit_code"], meta["protocol"]) == ("failed", 4, "metaworld-plus")
        assert meta["versions"]["torch"] == torch.__version__
        assert meta["versions"]["no-such-package"] == "not installed"
        assert meta["cores"] >= 1
        (run.path / "meta.json").write_text("{")
        run.set_status("done", 0)
        assert run.meta() == {"status": "done", "exit_code": 0}


def test_the_source_revision_is_a_commit_or_nothing(tmp_path: Path) -> None:
    assert source_revision(tmp_path) is None
    revision = source_revision(PROJECT)
    assert revision is None or (len(revision["commit"]) == 40 and isinstance(revision["modified"], bool))


def test_metrics_are_strict_json_whatever_the_row_holds(tmp_path: Path) -> None:
    with started(tmp_path / "a") as run:
        run.append_metrics(
            {
                "env_steps": 10,
                "loss": torch.tensor([1.0, float("nan")]),
                "rate": np.float32(0.5),
                "worst": -float("inf"),
                "tasks": {"reach": [1, None], "push": (True, "x")},
            }
        )
        with pytest.raises(ValueError, match="env_steps"):
            run.append_metrics({"loss": 1.0})
        (line,) = (run.path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "env_steps": 10,
        "loss": [1.0, None],
        "rate": 0.5,
        "worst": None,
        "tasks": {"reach": [1, None], "push": [True, "x"]},
    }


def evaluation(env_steps: int, kind: str = "periodic") -> list[EvaluationRow]:
    return [EvaluationRow(env_steps, task, 10, 0.1, -1 / 3, kind) for task in ("reach-v3", "odd, \"name'")]


def test_evaluations_come_back_as_written(tmp_path: Path) -> None:
    with started(tmp_path / "a") as run:
        run.append_evaluation(evaluation(100))
        run.append_evaluation(evaluation(200, "final"))
        assert run.evaluations.rows() == evaluation(100) + evaluation(200, "final")
        header = (run.path / "eval.csv").read_text().splitlines()[0]
    assert header == "env_steps,task,episodes,success_rate,mean_return,kind"


def test_a_resume_leaves_the_rows_of_a_run_never_interrupted(tmp_path: Path) -> None:
    files = {}
    for name, stops in (("straight", []), ("broken", [(47, 30), (71, 60), (100, 100)])):
        run = started(tmp_path / name)
        last = 0
        for stop, checkpoint in [*stops, (100, None)]:
            for step in range(last + 1, stop + 1):
                if step % 5 == 0:
                    run.append_metrics({"env_steps": step, "loss": 1 / step})
                if step % 20 == 0:
                    run.append_evaluation(evaluation(step))
            if checkpoint is not None:
                if stop == 100:
                    run.append_evaluation(evaluation(100, "final"))
                with open(run.path / "metrics.jsonl", "a") as file:
                    file.write('{"env_steps": 99, "lo')  # torn by the kill
                with open(run.path / "eval.csv", "a") as file:
                    file.write("99,rea")
                run.close()
                run = RunDirectory.resume(tmp_path / name)
                assert len(run.metrics.rows()) == stop // 5
                run.truncate_after(checkpoint)
                last = checkpoint
        run.append_evaluation(evaluation(100, "final"))
        run.sync()
        run.close()
        files[name] = [(run.path / file).read_bytes() for file in ("metrics.jsonl", "eval.csv")]
    assert files["straight"] == files["broken"]
    assert len(files["straight"][0].splitlines()) == 20


def test_lines_that_are_no_rows_are_passed_over(tmp_path: Path) -> None:
    with started(tmp_path / "a") as run:
        run.append_metrics({"env_steps": 1})
        with open(run.path / "metrics.jsonl", "ab") as file:
            file.write(b'\xff\xff\n[]\n{"env_steps": "x"}\n\n{"env_steps": 2, "x": NaN}\n')
        run.append_metrics({"env_steps": 3})
        assert [row["env_steps"] for row in run.metrics.rows()] == [1, 3]
        run.append_evaluation(evaluation(1))
        with open(run.path / "eval.csv", "ab") as file:
            file.write(b'1,2,3\n"\n1,reach-v3,1,0.5,1.0,other\nx,reach-v3,1,0.5,1.0,final\n')
        assert run.evaluations.rows() == evaluation(1)


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "open"])
def test_a_full_disk_is_one_storage_failure_in_every_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    run = started(tmp_path / "a")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    writers = {
        "config.yaml": (lambda: run.write_config("new"), {"write", "fsync", "replace", "open"}),
        "meta.json": (lambda: run.write_meta({"new": 1}), {"write", "fsync", "replace", "open"}),
        "metrics.jsonl": (lambda: run.append_metrics({"env_steps": 1}), {"write", "open"}),
        "eval.csv": (lambda: run.append_evaluation(evaluation(1)), {"write", "open"}),
    }
    for name, (write, affected) in writers.items():
        if call not in affected:
            continue
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(StorageFailure) as caught:
                write()
        assert f"{name}': No space left on device: needed" in one_line(caught.value)
    run.close()
    assert RunDirectory.open(tmp_path / "a").config() == "suite: {name: mt3}\n"
    assert RunDirectory.open(tmp_path / "a").meta() == {"status": "running"}
    assert not [name for name in os.listdir(tmp_path / "a") if name.startswith(".tmp-")]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    run = started(tmp_path / "a")
    texts = [letter * 200_000 for letter in "ab"]
    run.write_config(texts[0])
    stop = threading.Event()

    def write() -> None:
        for turn in range(1000):
            if stop.is_set():
                return
            run.write_config(texts[turn % 2])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {RunDirectory.open(tmp_path / "a").config() for _ in range(200)}
    finally:
        stop.set()
        writer.join()
    assert seen <= set(texts)


def test_tensorboard_curves_can_be_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoardSink(tmp_path / "tb")
    for env_steps in (10, 20):
        sink.add_scalars(env_steps, {"train/return/reach-v3": env_steps / 2})
    sink.close()
    curves = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [(point.step, point.value) for point in curves.Scalars("train/return/reach-v3")] == [(10, 5.0), (20, 10.0)]


def test_a_broken_tensorboard_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tb").write_text("in the way")
    sink = TensorBoardSink(tmp_path / "tb")
    with caplog.at_level(logging.WARNING):
        for env_steps in range(3):
            sink.add_scalars(env_steps, {"x": 1.0})
    sink.close()
    assert len(caplog.records) == 1
    assert "no TensorBoard curves" in caplog.text
