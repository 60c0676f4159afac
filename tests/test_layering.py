"""What may import what, and how large a folder may grow."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
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

UNITS = (
    "errors", "registry", "faults", "types", "data_parallel", "seeding", "per_task",
    "env", "buffer", "networks", "encoders", "aggregation", "normalization", "policies", "scheduling", "auxiliary",
    "optim", "agent",
    "config", "checkpoints", "runs", "loggers", "evaluation", "training", "testing", "relations", "report",
    "launch", "export", "api", "cli", "__main__",
)  # fmt: skip
"""The files and packages of `mtrl` from bottom to top, as docs/architecture.md has them: each imports earlier ones."""

SIMULATORS = re.compile(r"mujoco|ale[_-]py|envpool|atari|vizdoom|meta-world|metaworld(?!:)", re.IGNORECASE)
"""Simulators, which `mtrl` knows none of; a suite's name such as `metaworld:reach-v3` may be an example."""

MAX_FILES = 12
"""Python files of a package."""


def python_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for package in ALLOWED for path in python_files(package)}


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, those inside functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield node.lineno, name if name in MODULES else str(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield node.lineno, str(argument.value)


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_go_in_one_direction(package: str) -> None:
    assert python_files(package)
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in python_files(package)
        for line, name in imported_modules(path)
        if name.split(".")[0] in PACKAGES - ALLOWED[package]
    ]
    assert not wrong


def test_a_unit_of_mtrl_imports_only_units_below_it() -> None:
    # The package itself holds the version and, imported when it is called, `load`.
    assert {name.split(".")[1] for name in MODULES if name.startswith("mtrl.")} == {*UNITS}
    upward = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        for _, name in imported_modules(path)
        if module.startswith("mtrl.") and name.startswith("mtrl.")
        if UNITS.index(name.split(".")[1]) > UNITS.index(module.split(".")[1])
    ]
    assert not upward


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {
        module: {name for _, name in imported_modules(path)} & MODULES.keys() - {module}
        for module, path in MODULES.items()
        if module != "mtrl"
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_packages_are_small() -> None:
    counts = {
        path.parent.relative_to(ROOT).as_posix(): len(list(path.parent.glob("*.py")))
        for path in MODULES.values()
        if path.name == "__init__.py"
    }
    assert counts["mtrl"] <= 9
    assert not {package: count for package, count in counts.items() if count > MAX_FILES}


def test_mtrl_names_no_simulator() -> None:
    wrong = [str(path.relative_to(ROOT)) for path in python_files("mtrl") if SIMULATORS.search(path.read_text())]
    assert not wrong


def test_every_folder_of_source_is_a_package() -> None:
    # setuptools finds packages by their __init__.py; a folder without one would be missing from the wheel.
    folders = {path.parent for package in ALLOWED for path in python_files(package)}
    assert all((folder / "__init__.py").is_file() for folder in folders)


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
