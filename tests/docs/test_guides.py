"""The guides are run as they stand: files are written where they say, commands are run in their order."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest

from tests.fresh_process import run_fresh

PROJECT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:`(?P<file>[\w./-]+)`:\n\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE)


def run(command: str, folder: Path) -> str:
    """The standard output of a command of a guide, run in `folder`."""
    program, *arguments = shlex.split(command)
    if program == "cp":
        shutil.copy(*(folder / name for name in arguments))
        return ""
    result = run_fresh(program, *arguments, folder=folder)
    assert result.returncode == 0, f"{command}\n{result.stderr}"
    return result.stdout


def follow(guide: str, folder: Path, leave_out: str | None = None) -> list[str]:
    """What the commands of a page print; those that match `leave_out` are not run."""
    outputs = []
    for block in BLOCK.finditer((PROJECT / "docs" / guide).read_text()):
        if block["file"]:
            (folder / block["file"]).parent.mkdir(exist_ok=True)
            (folder / block["file"]).write_text(block["text"])
        elif block["language"]:  # others are outputs and equations
            assert block["language"] == "console", f"a block without a file:\n{block['text']}"
            commands = [line.removeprefix("$ ") for line in block["text"].splitlines()]
            outputs += [run(command, folder) for command in commands if not re.match(leave_out or "\n", command)]
    return outputs


def final_rows(run_dir: Path) -> list[dict[str, str]]:
    """The rows of a run's last evaluation, one per task."""
    rows = list(csv.DictReader((run_dir / "eval.csv").read_text().splitlines()))
    return [row for row in rows if row["kind"] == "final"]


MORE_TRAININGS = r"mtrl train .*--seeds|mtrl report"


@pytest.mark.slow
def test_the_guide_leads_from_an_empty_folder_to_an_evaluated_architecture(tmp_path: Path) -> None:
    # What is left out takes three more trainings' time.
    outputs = follow("plug-in.md", tmp_path, leave_out=MORE_TRAININGS)
    assert any("mean return" in text and "goal-0.8-0.8" in text for text in outputs)
    assert "name: lab-gated" in outputs[-1]
    hook = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]["entry-points"]["mtrl.plugins"]
    assert hook == {"my_lab": "my_lab:register"}


@pytest.mark.full
def test_the_guide_leads_on_to_a_comparison(tmp_path: Path) -> None:
    follow("plug-in.md", tmp_path)
    page = (tmp_path / "comparison.html").read_text()
    assert "gated:Gated</th>" in page
    assert "mlp</th>" in page


@pytest.mark.slow
def test_the_guide_leads_from_an_empty_folder_to_a_suite_that_is_learnt(tmp_path: Path) -> None:
    outputs = follow("suite.md", tmp_path)
    assert "lane/Reach-v0" in outputs[0]
    assert [row["task"] for row in final_rows(tmp_path / "runs" / "lane")] == ["left", "right"]
    successes = {row["task"]: float(row["success_rate"]) for row in final_rows(tmp_path / "runs" / "carts")}
    assert list(successes) == ["light", "middle", "heavy"]
    assert min(successes.values()) >= 0.8, successes


@pytest.mark.slow
def test_the_guide_leads_from_an_empty_folder_to_an_agent_that_learns(tmp_path: Path) -> None:
    follow("agent.md", tmp_path)
    returns = [float(row["mean_return"]) for row in final_rows(tmp_path / "runs" / "td3")]
    # The optimum is 16 for each of the four tasks, and chance below 0.
    assert len(returns) == 4
    assert min(returns) >= 13, returns
