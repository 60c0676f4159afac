"""The distribution: the source archive is complete, and the wheel made of it holds the packages and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import mtrl

ROOT = Path(mtrl.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("agents", "benchmarks", "envs", "mtrl")
DOCUMENTS = (
    *("README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "constraints.txt", "Makefile"),
    *("zensical.toml", ".pre-commit-config.yaml"),
)


def build(kind: str, project: Path, output: Path) -> Path:
    """Builds a wheel or sdist with the setuptools of this environment; no other package is fetched."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    command = [sys.executable, "-c", code, str(output)]
    subprocess.run(command, cwd=project, check=True, capture_output=True, text=True, timeout=300)
    (built,) = output.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive unpacked, made from a copy of the project."""
    folder = tmp_path_factory.mktemp("sdist")
    ignored = shutil.ignore_patterns("__pycache__", "results", "*.egg-info")
    for name in (*PACKAGES, "docs", "tests"):
        shutil.copytree(ROOT / name, folder / "project" / name, ignore=ignored)
    for name in (*DOCUMENTS, "pyproject.toml", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder / "project" / name)
    with tarfile.open(build("sdist", folder / "project", folder)) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.glob("mtrl_suite-*/")
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", sdist, tmp_path_factory.mktemp("wheel"))


def test_the_source_archive_has_tests_and_pages(sdist: Path) -> None:
    for name in (*DOCUMENTS, "docs/architecture.md", "docs/images/live-table.svg", "tests/conftest.py"):
        assert (sdist / name).is_file(), name


def test_the_wheel_holds_the_packages_with_their_types_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    data = {*(f"{package}/py.typed" for package in PACKAGES), "mtrl/report/report.html"}
    assert names == {*files, *data}


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        folder = next(name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name)
        metadata = archive.read(f"{folder}/METADATA").decode()
        entry_points = archive.read(f"{folder}/entry_points.txt").decode()
        assert f"{folder}/licenses/LICENSE" in archive.namelist()
    assert "mtrl = mtrl.cli.main:main" in entry_points
    assert "envs = envs:register" in entry_points
    for line in (f"Version: {mtrl.__version__}", "License-Expression: MIT", "Classifier: Typing :: Typed"):
        assert line in metadata.splitlines()


def test_one_version_stands_everywhere() -> None:
    (cited,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert PROJECT["project"]["version"] == mtrl.__version__ == cited
    assert f"## {mtrl.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_hooks_before_a_commit_use_the_versions_of_the_tests() -> None:
    hooks = set(re.findall(r'"([\w-]+==[\d.]+)"', (ROOT / ".pre-commit-config.yaml").read_text()))
    assert hooks
    assert hooks <= set(PROJECT["project"]["optional-dependencies"]["test"])


def test_every_extra_is_said_what_it_is_for() -> None:
    table = (ROOT / "docs" / "cli.md").read_text().partition("## Extras")[2]
    named = [
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`([\w-]+)`", row[2:].partition("|")[0])
    ]
    assert sorted(named) == sorted(PROJECT["project"]["optional-dependencies"])


@pytest.mark.slow
def test_the_installed_wheel_trains_outside_the_project(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    options = "--total-env-steps 2000 --num-workers 1 --eval-interval 0 --final-eval-episodes-per-task 2 --run-dir run"
    for command in (
        ["-c", f"import mtrl, envs; assert mtrl.__file__.startswith({str(target)!r}), mtrl.__file__"],
        ["-m", "mtrl", "train", "--suite", "gym:CartPole-v1", "--agent", "ppo", *options.split()],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
    assert "CartPole-v1" in done.stdout
