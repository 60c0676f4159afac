"""Every fenced block of README and the pages: Python runs, commands exist, YAML is a configuration."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest

import agents
import envs
from mtrl.cli.main import VERBS, main
from mtrl.config.schema import resolve_config
from mtrl.config.yaml_io import load_mapping
from mtrl.launch.sweep_file import Sweep

PROJECT = Path(__file__).parents[2]
OWN_TEST = ("agent.md", "plug-in.md", "suite.md")
"""Guides, which test_guides.py runs as a whole. Pages with blocks that need more than a run have tests of their own."""
PYTHON_ELSEWHERE = ("README.md", "docs/data-parallel.md", "docs/python.md")
"""Pages whose Python trains (test_readme.py, test_notebook.py), or is one line of an agent."""
SWEEPS = "docs/sweeps.md"
"""Its YAML is not the configuration of a run."""
PAGES = {
    path.relative_to(PROJECT).as_posix(): path.read_text()
    for path in (*PROJECT.glob("*.md"), *sorted(PROJECT.glob("docs/*.md")))
    if path.name not in OWN_TEST
}
OTHER_PROGRAMS = ("cp", "docker", "git", "pip", "pre-commit", "tensorboard", "torchrun")


def blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def lines(page: str) -> list[str]:
    """The commands of a page, without comments."""
    return [
        line.removeprefix("$ ").partition(" #")[0].strip()
        for block in blocks("console", page)
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


def pages_with(language: str) -> list[str]:
    return sorted(page for page in PAGES if blocks(language, page))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the short run `runs/a` of MT10, which the pages read."""
    folder = tmp_path_factory.mktemp("pages")
    options = "--agent ppo --agent.rollout-steps 10 --architecture.width 16 --total-env-steps 100 --num-workers 0"
    short = "--eval-interval 0 --final-eval-episodes-per-task 1 --torch-threads 1"
    run_dir = str(folder / "runs" / "a")
    assert main(["train", "--suite", "mt10", *options.split(), *short.split(), "--run-dir", run_dir]) == 0
    assert main(["export", run_dir]) == 0
    return folder


@pytest.mark.parametrize("page", sorted({*pages_with("python")} - {*PYTHON_ELSEWHERE}))
def test_python_blocks_run_in_their_order(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names = {"observation": np.zeros(39, np.float32), "observations": np.zeros((2, 39), np.float32)}
    names["__name__"] = "__main__"
    for block in blocks("python", page):
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", sorted({*pages_with("yaml")} - {SWEEPS}))
def test_yaml_blocks_are_configurations(page: str) -> None:
    agents.register()
    envs.register()
    for block in blocks("yaml", page):
        resolve_config(load_mapping(block, page))


def test_yaml_blocks_of_the_page_on_sweeps_are_sweeps(tmp_path: Path) -> None:
    agents.register()
    envs.register()
    grid, *_, search = blocks("yaml", SWEEPS)
    for name, block in ("grid", grid), ("search", search):
        (tmp_path / f"{name}.yaml").write_text(block)
    assert len(Sweep(tmp_path / "grid.yaml").runs()) == 12
    assert Sweep(tmp_path / "search.yaml").settings.search


@pytest.mark.parametrize("page", pages_with("console"))
def test_commands_exist(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = set(re.findall(r"^(\w+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    monkeypatch.chdir(tmp_path)
    for line in lines(page):
        program, *arguments = shlex.split(line)
        program = Path(program).name
        if program == "make":
            assert {word for word in arguments if "=" not in word} <= targets, line
        elif program in ("python", "python3"):
            if arguments[0] == "-m":
                assert importlib.util.find_spec(arguments[1]) is not None, line
        elif program == "mtrl":
            assert arguments[0] in VERBS, line
        else:
            assert program in OTHER_PROGRAMS, line


@pytest.mark.parametrize("page", pages_with("console"))
def test_flags_of_commands_that_read_a_run_are_accepted(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in lines(page):
        _, *arguments = shlex.split(line)
        if re.match(r"mtrl (eval|report) ", line):
            # The run is what is missing, not a flag.
            assert main(arguments) == 2
            assert re.search(r"\bruns\b|mt10-policy' does not exist", capsys.readouterr().err), line


@pytest.mark.parametrize("page", PAGES)
def test_extras_exist(page: str) -> None:
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for group in re.findall(r"\.\[([\w,-]+)\]", PAGES[page]) for name in group.split(",")}
    assert named <= set(extras)
