"""The folders import each other in one direction, and the package list is complete."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "mtrl": {"mtrl"},
    "agents": {"agents", "mtrl"},
    "envs": {"envs", "mtrl"},
    "benchmarks": {"benchmarks", "agents", "envs", "mtrl"},
}
PACKAGES = {*ALLOWED, "tests"}


def python_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_packages(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            yield node.lineno, node.module.split(".")[0]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield node.lineno, str(argument.value).split(".")[0]


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_go_in_one_direction(package: str) -> None:
    assert python_files(package)
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in python_files(package)
        for line, name in imported_packages(path)
        if name in PACKAGES - ALLOWED[package]
    ]
    assert not wrong


def test_the_package_list_is_what_the_folders_hold() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for package in ALLOWED for path in python_files(package)}
    assert sorted(listed) == sorted(found)
    assert not any(name.startswith("tests") for name in listed)


def test_every_package_is_one_when_it_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert all((ROOT / name.replace(".", "/") / "__init__.py").is_file() for name in listed)


def test_no_file_names_a_place_outside_the_project() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("no git checkout")
    foreign = "/" + "work/"  # in two parts, so that this line is not found
    wrong = []
    for name in filter(None, tracked.stdout.split("\0")):
        path = ROOT / name
        try:
            text = path.read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        wrong += [f"{name}:{number}" for number, line in enumerate(text.splitlines(), 1) if foreign in line]
    assert not wrong


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("mtrl.cli.main", ("torch", "gymnasium", "metaworld", "mujoco")),
        ("mtrl.env.suite", ("torch", "metaworld", "mujoco")),
        ("envs", ("torch", "metaworld", "mujoco")),
        ("agents", ("metaworld", "mujoco")),
    ],
)
def test_importing_stays_light(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
