"""The guide to a plug-in is run as it stands: files are written where it says, commands are run in its order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
GUIDE = (PROJECT / "docs" / "plug-in.md").read_text()
BLOCK = re.compile(r"(?:`(?P<file>[\w./-]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE)


def run(command: str, folder: Path) -> str:
    """The standard output of a command of the guide, run in `folder`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stderr}"
    return result.stdout


MORE_TRAININGS = r"mtrl train .*--seeds|mtrl report"


def follow(folder: Path, leave_out: str | None = None) -> list[str]:
    """What the commands of the guide print; those that match `leave_out` are not run."""
    outputs = []
    for block in BLOCK.finditer(GUIDE):
        if block["file"]:
            (folder / block["file"]).parent.mkdir(exist_ok=True)
            (folder / block["file"]).write_text(block["text"])
        else:
            assert block["language"] == "console", f"a block without a file:\n{block['text']}"
            commands = [line.removeprefix("$ ") for line in block["text"].splitlines()]
            outputs += [run(command, folder) for command in commands if not re.match(leave_out or "\n", command)]
    return outputs


def test_the_guide_leads_from_an_empty_folder_to_an_evaluated_architecture(tmp_path: Path) -> None:
    # What is left out takes three more trainings' time.
    outputs = follow(tmp_path, leave_out=MORE_TRAININGS)
    assert any("mean return" in text and "goal-0.8-0.8" in text for text in outputs)
    assert "name: lab-gated" in outputs[-1]
    hook = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]["entry-points"]["mtrl.plugins"]
    assert hook == {"my_lab": "my_lab:register"}


@pytest.mark.full
def test_the_guide_leads_on_to_a_comparison(tmp_path: Path) -> None:
    follow(tmp_path)
    page = (tmp_path / "comparison.html").read_text()
    assert "gated:Gated</th>" in page
    assert "mlp</th>" in page


def test_the_readme_leads_to_the_guide() -> None:
    assert "(docs/plug-in.md)" in (PROJECT / "README.md").read_text()
