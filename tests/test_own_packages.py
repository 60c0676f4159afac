"""Folders called `envs` or `agents` beside the user's script do not stand in for ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mtrl
from mtrl.training import run
from tests.fresh_process import run_fresh
from tests.training.tiny_runs import in_child, tiny_config

ROOT = Path(mtrl.__file__).parents[1]

# As an editable installation finds the packages: after everything that lies on the path.
INSTALLED = f"""
import importlib.machinery, importlib.metadata, sys
class Finder:
    def find_spec(name, path=None, target=None):
        own = importlib.machinery.PathFinder.find_spec(name, [{str(ROOT)!r}]) if path is None else None
        return own if name in ("mtrl", "agents", "envs") else None
    find_distributions = importlib.metadata.MetadataPathFinder.find_distributions
sys.path[:] = [entry for entry in sys.path if entry != {str(ROOT)!r}]
sys.meta_path.insert(sys.meta_path.index(importlib.machinery.PathFinder) + 1, Finder)
"""

LOAD = f"{INSTALLED}import mtrl; print(mtrl.load('run').predict([0.1, 0.2], 0).shape)"


def python(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(script)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return run_fresh("python", "script.py", folder=folder, environment=environment, timeout=120)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    config = tiny_config(total_env_steps=200, eval_interval=0, final_eval_episodes_per_task=0)
    assert in_child(lambda: run.train(config, folder)) == 0
    return folder


@pytest.fixture(params=["empty folder", "package", "file"])
def folder(request: pytest.FixtureRequest, trained: Path, tmp_path: Path) -> Path:
    """A user's folder with a run and with things of the names of our packages."""
    (tmp_path / "run").symlink_to(trained)
    for name in ("envs", "agents"):
        if request.param == "file":
            (tmp_path / f"{name}.py").touch()
            continue
        (tmp_path / name).mkdir()
        if request.param == "package":
            (tmp_path / name / "__init__.py").touch()
    return tmp_path


def test_an_agent_is_loaded_beside_folders_of_our_names(folder: Path) -> None:
    result = python(folder, LOAD)
    assert (result.returncode, result.stdout) == (0, "(2,)\n"), result.stderr


def test_workers_start_beside_folders_of_our_names(folder: Path) -> None:
    script = f"""
{INSTALLED}
if __name__ == "__main__":
    import time
    from mtrl.registry import discover_plugins
    discover_plugins()
    from envs.workers.child_process import ChildProcess
    print(ChildProcess(time.sleep, 0.0).exit_code(30))
"""
    result = python(folder, script)
    assert (result.returncode, result.stdout) == (0, "0\n"), result.stderr


def test_a_package_imported_under_our_name_is_named_in_one_line(folder: Path) -> None:
    script = LOAD.replace("import mtrl;", "import agents, envs, mtrl;")
    result = python(folder, script)
    line = result.stderr.splitlines()[-1]
    assert line.startswith("mtrl.errors.BadInput: plug-in 'envs:register' cannot be loaded")
    assert f"the module imported as 'envs' is {folder}/envs" in line
    assert line.endswith("if that is yours, give it another name")


def test_the_path_is_as_before() -> None:
    from mtrl.registry import discover_plugins

    before = sys.path[:]
    discover_plugins()
    assert sys.path == before
