"""Dispatch, error lines and exit codes of the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mtrl.training.run
from mtrl.errors import BadInput, Diverged, StorageFailure, WorkerFailure
from tests.cli.commands import assert_refused, call, command

HEAVY = (
    *("torch", "gymnasium", "pydantic", "numpy", "argparse", "rich", "ruamel.yaml"),
    *("mujoco", "metaworld", "ale_py", "safetensors"),
)


def fail_with(error: BaseException) -> Any:
    def fail(*_: Any, **__: Any) -> int:
        raise error

    return fail


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        f"import sys, mtrl.cli.main; code = mtrl.cli.main.main({arguments}); "
        f"print([module for module in {HEAVY} if module in sys.modules], code)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines()[-1] == f"[] {0 if arguments else 2}"
    assert "mtrl" in result.stdout


def test_suites_are_known_before_torch_is_imported() -> None:
    script = (
        "import sys, mtrl.registry as r, mtrl.env.suite as s; next(r.plugins_one_by_one());"
        "print('torch' in sys.modules, s.find_suite('mt10').__name__, 'metaworld' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == ["False", "MetaWorld", "False"]


@pytest.mark.parametrize("verb", ["eval", "list", "doctor", "sweep", "status", "train", "train --resume x"])
def test_every_verb_has_help(verb: str) -> None:
    finished = call(*verb.split(), "--help")
    assert finished.code == 0
    assert f"usage: mtrl {verb.removesuffix(' x')}" in finished.out


def test_an_unknown_verb_is_refused_with_the_nearest() -> None:
    assert_refused(call("trian"), "'trian'", "did you mean 'train'", "eval")


def test_control_characters_never_reach_the_terminal() -> None:
    assert_refused(call("train", "--agent", "\x1b[2J\u202e\n" + "x" * 1000), r"\x1b[2J\u202e\n")
    assert_refused(call("\x07"), r"\x07")


@pytest.mark.parametrize(
    ("error", "code"),
    [(Diverged("loss"), 3), (WorkerFailure("slot 3"), 4), (StorageFailure("full"), 5), (BadInput("x"), 2)],
)
def test_errors_of_a_run_have_their_exit_codes(error: Exception, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtrl.training.run, "train", fail_with(error))
    assert call("train", "--suite", "point-mass") == (code, "", f"error: {error}\n")


def test_interrupting_the_command_gives_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtrl.training.run, "train", fail_with(KeyboardInterrupt()))
    assert call("train", "--suite", "point-mass").code == 130


def test_a_bug_leaves_its_traceback_in_the_run_directory_or_else_on_stderr(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for verb in ("train", "resume"):
        monkeypatch.setattr(mtrl.training.run, verb, fail_with(ZeroDivisionError("a\nb")))
    finished = call("train", "--resume", str(run_dir))
    assert finished.code == 70
    assert finished.error.count("\n") == 1
    [report] = (run_dir / "diagnostics").iterdir()
    assert str(report) in finished.error
    assert "ZeroDivisionError" in report.read_text()
    finished = call("train", "--suite", "point-mass")
    assert finished.code == 70
    assert finished.error.startswith("Traceback")


def test_a_reader_that_leaves_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mtrl", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "line",
    [
        "--help",
        pytest.param("list agents", marks=pytest.mark.slow),
        pytest.param("eval --help", marks=pytest.mark.slow),
        "train --suite point-mass --print-config",
    ],
)
def test_a_full_disk_behind_stdout_is_one_line_and_exit_code_5(line: str) -> None:
    with open("/dev/full", "w") as full:
        finished = command(*line.split(), stdout=full)
    assert (finished.code, finished.error) == (5, "error: the output cannot be written: No space left on device\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--config", "bad.yaml"],
        ["train", "--config", "/dev/zero"],
        ["train", "--resume", "nowhere\udcff"],
        pytest.param(["train", "--agent.batch-size", "\ud7ff"], marks=pytest.mark.slow),
        pytest.param(["train", "--suite", "point-mass", "--architecture.width", "9" * 5000], marks=pytest.mark.slow),
        ["eval", "--checkpoint", "\u202e", "."],
    ],
)
def test_a_process_refuses_and_writes_nothing(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"a: &a [*a, *a]\n")
    finished = command(*arguments, cwd=tmp_path)
    assert_refused(finished)
    assert finished.out == ""
    assert [path.name for path in tmp_path.rglob("*")] == ["bad.yaml"]
