"""The README's plug-in example is run as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text()


def between(name: str) -> str:
    """The fenced block between a pair of comments of the README."""
    block = README.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0]
    match = re.search(r"```\w+\n(.*?)```", block, re.DOTALL)
    assert match is not None
    return match[1]


def test_the_plugin_example_is_checked_trained_and_evaluated(tmp_path: Path) -> None:
    (tmp_path / "film.py").write_text(between("example"))
    commands = [line.removeprefix("$ ") for line in between("example-commands").splitlines()]
    assert len(commands) == 3
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        result = subprocess.run(
            shlex.split(command),
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, f"{command}\n{result.stderr}"
    assert "success rate" in result.stdout
