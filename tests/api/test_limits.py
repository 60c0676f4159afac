"""Machines that give little: one line at most, and no traceback."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest

from mtrl.api import limits
from mtrl.api.limits import reached_limit
from tests.fresh_process import run_fresh

TRAIN = (
    *("train", "--suite", "point-mass", "--num-workers", "0", "--torch-threads", "1", "--architecture", "mlp"),
    *("--architecture.width", "2000", "--agent.batch-size", "16", "--total-env-steps", "400", "--eval-interval", "0"),
    *("--final-eval-episodes-per-task", "1", "--run-dir", "run"),
)

IMPORTS = "import resource, sys, torch, mtrl.training.run\nfrom mtrl.cli.main import main\n"

NO_HOME = """
import os, pwd
def getpwuid(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = getpwuid
os.environ.pop("HOME", None)
"""

FEW_FILES = "resource.setrlimit(resource.RLIMIT_NOFILE, (3 + {spare}, 3 + {spare}))\n"

LITTLE_SPACE = """
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {spare}, used + {spare}))
"""


def call(folder: Path, preparation: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = f"{IMPORTS}{preparation}\nsys.exit(main({list(arguments)!r}))"
    return run_fresh("python", "-c", script, folder=folder, timeout=120)


@pytest.mark.parametrize(
    "arguments", [pytest.param(TRAIN, marks=pytest.mark.slow), ("doctor",)], ids=["train", "doctor"]
)
def test_a_user_without_a_home_and_a_name_is_served(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = call(tmp_path, NO_HOME, *arguments)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("spare", [0, *(pytest.param(spare, marks=pytest.mark.slow) for spare in (1, 2)), 4])
def test_few_file_descriptors_are_one_line(tmp_path: Path, spare: int) -> None:
    result = call(tmp_path, FEW_FILES.format(spare=spare), *TRAIN)
    assert "Traceback" not in result.stderr
    assert result.returncode in (0, 2, 4, 5)
    if result.returncode:
        assert result.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("spare", [80 * 2**20, 2**27])
def test_little_address_space_is_one_line(tmp_path: Path, spare: int) -> None:
    result = call(tmp_path, LITTLE_SPACE.format(spare=spare), *TRAIN)
    assert "Traceback" not in result.stderr
    assert result.returncode == 2, result.stderr
    assert "memory" in result.stderr.splitlines()[-1]


def test_a_reached_limit_is_told_from_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reached_limit(MemoryError()) is not None
    assert reached_limit(OSError(errno.EMFILE, "Too many open files")) == (
        "the system refuses more: Too many open files (see ulimit -n and ulimit -u)"
    )
    assert reached_limit(FileNotFoundError(errno.ENOENT, "No such file")) is None
    assert reached_limit(SystemError("error return without exception set")) is None
    monkeypatch.setattr(limits, "available_memory", lambda: 4096)
    assert "4,096 bytes are there" in str(reached_limit(SystemError("error return without exception set")))
