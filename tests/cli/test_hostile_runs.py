"""Run directories from a stranger: every command that opens one refuses in one line and runs nothing of it."""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import mtrl
from mtrl.cli.main import MAX_LINE, main
from mtrl.errors import BadInput
from mtrl.training import run
from tests.checkpoints.malicious_files import CANARY_MODULE, HOSTILE_CHECKPOINTS, HOSTILE_CONFIGURATIONS, LARGE
from tests.runs.forked import in_child
from tests.training.tiny_runs import tiny_config

WATCHED = ("pickle.", "subprocess.", "os.system", "os.exec", "os.posix_spawn")
"""Audit events that no refusal may cause."""


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with one resumable checkpoint."""
    path = tmp_path_factory.mktemp("finished") / "run"
    config = tiny_config(total_env_steps=160, final_eval_episodes_per_task=0, keep_checkpoints=1)
    with contextlib.redirect_stdout(io.StringIO()):
        assert run.train(config, path) == 0
    assert len(list((path / "checkpoints").glob("step_*"))) == 1
    # Untouched it opens in every way; and what the commands import late, the children find imported.
    copy = shutil.copytree(path, path.with_name("copy"))
    assert [code for code, _ in open_in_every_way(copy)] == [0, 0, 0]
    return path


def open_in_every_way(path: Path) -> list[tuple[int, str]]:
    """Exit code and standard error of each command that reads a run directory, in this process."""
    commands: list[Sequence[str]] = [
        ("train", "--resume", str(path)),
        ("eval", str(path), "--episodes-per-task", "1", "--num-workers", "0"),
    ]
    answers = []
    for command in commands:
        error = io.StringIO()
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            answers.append((main(command), error.getvalue()))
    try:
        mtrl.load(str(path))
        answers.append((0, ""))
    except BadInput as refusal:
        answers.append((refusal.exit_code, f"error: {refusal}\n"))
    return answers


def assert_refused_without_harm(path: Path, canary: Path) -> None:
    """Opens the run directory in every way, in a child process in which the canary module can be imported."""
    outside = sorted(os.listdir(path.parent))

    def child() -> None:
        os.environ["CANARY"] = str(canary)
        sys.path.insert(0, str(canary.parent))
        (canary.parent / "canary_module.py").write_text(CANARY_MODULE)
        events: list[str] = []
        sys.addaudithook(lambda event, args: events.append(f"{event} {args!r}") if event.startswith(WATCHED) else None)
        for code, error in open_in_every_way(path):
            assert code == 2, error
            assert error.startswith("error: ")
            assert error.endswith("\n")
            assert error[:-1].isprintable(), error
            assert len(error) <= MAX_LINE + 1 or error.count("\n") == 1
        assert events == []
        assert "canary_module" not in sys.modules

    status, told = in_child(child)
    assert status == 0, told
    assert not canary.exists()
    assert sorted(os.listdir(path.parent)) == outside


@pytest.fixture
def copied_run(tmp_path: Path, finished_run: Path) -> tuple[Path, Path]:
    """A run directory to spoil, and where the canary would appear."""
    (tmp_path / "nest").mkdir()
    return shutil.copytree(finished_run, tmp_path / "runs" / "run"), tmp_path / "nest" / "canary"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full if name in LARGE else ()) for name in HOSTILE_CHECKPOINTS]
)
def test_a_run_with_a_hostile_checkpoint_is_refused_by_every_command(copied_run: tuple[Path, Path], name: str) -> None:
    path, canary = copied_run
    HOSTILE_CHECKPOINTS[name](path, canary)
    assert_refused_without_harm(path, canary)


@pytest.mark.parametrize("name", HOSTILE_CONFIGURATIONS)
def test_a_run_with_a_hostile_configuration_is_refused_by_every_command(
    copied_run: tuple[Path, Path], name: str
) -> None:
    path, canary = copied_run
    (path / "config.yaml").write_bytes(HOSTILE_CONFIGURATIONS[name](canary))
    assert_refused_without_harm(path, canary)


def test_the_canary_module_would_touch_the_canary_if_it_were_imported(tmp_path: Path) -> None:
    def child() -> None:
        os.environ["CANARY"] = str(tmp_path / "canary")
        exec(CANARY_MODULE)

    assert in_child(child)[0] == 0
    assert (tmp_path / "canary").exists()


def mutate(path: Path, generator: random.Random) -> str:
    """Damages one file of a run directory; returns what was done."""
    file = generator.choice(sorted(file for file in path.rglob("*") if file.is_file()))
    content = file.read_bytes()
    kind = generator.choice(("flip", "cut", "empty", "delete", "folder", "link", "number", "line", "append"))
    if kind in ("delete", "folder", "link"):
        file.unlink()
        if kind == "folder":
            file.mkdir()
        elif kind == "link":
            file.symlink_to(generator.choice(("/etc/hostname", "/dev/null", str(path / "config.yaml"))))
    elif kind == "flip" and content:
        place = generator.randrange(len(content))
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << generator.randrange(8)]) + content[place + 1 :])
    elif kind == "number":
        number = generator.choice((b"-1", b"1e400", b"NaN", b"null", b'"abc"', b"[]", b"9" * 400, b"true"))
        numbers = list(re.finditer(rb"\d+", content))
        where = generator.choice(numbers) if numbers else None
        file.write_bytes(content if where is None else content[: where.start()] + number + content[where.end() :])
    elif kind == "line":
        lines = content.splitlines(keepends=True)
        generator.shuffle(lines)
        file.write_bytes(b"".join(lines[: generator.randrange(len(lines) + 1)]))
    else:
        cut = content[: generator.randrange(len(content) + 1)]
        file.write_bytes({"cut": cut, "append": content + b"\xff{[,"}.get(kind, b""))
    return f"{kind} {file.relative_to(path)}"


@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=pytest.mark.full) for first in range(10, 500, 10))])
def test_a_damaged_run_directory_is_never_a_bug(copied_run: tuple[Path, Path], first: int) -> None:
    path, _ = copied_run

    def child() -> None:
        for seed in range(first, first + 10):
            damaged = shutil.copytree(path, path.with_name(f"damaged-{seed}"))
            what = mutate(damaged, random.Random(seed))
            for code, error in open_in_every_way(damaged):
                assert code in (0, 2, 5), f"{seed}: {what}: {code} {error}"

    status, told = in_child(child)
    assert status == 0, told
