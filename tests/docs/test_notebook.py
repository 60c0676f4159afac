"""The notebook and the blocks of docs/python.md run from an empty folder."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.fresh_process import run_fresh

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = DOCS / "notebook.ipynb"
PAGE = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL))


def run_script(text: str, folder: Path) -> str:
    """What a script prints, run in `folder`."""
    (folder / "script.py").write_text(text)
    environment = os.environ | {"MPLBACKEND": "agg"}
    done = run_fresh("python", "script.py", folder=folder, environment=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_cells_run_as_a_script(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    printed = run_script("\n\n".join("".join(cell["source"]) for cell in cells), tmp_path)
    assert "gated {'goal-0.8-0.8'" in printed
    assert (tmp_path / "runs" / "multi-head" / "export" / "policy.pt2").is_file()


def test_the_notebook_holds_no_output() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


def test_the_blocks_of_the_page_run(tmp_path: Path) -> None:
    printed = run_script(PAGE, tmp_path)
    assert "unknown key 'agent.lr' (did you mean 'learning_rate'?)" in printed
    assert (tmp_path / "runs" / "linear" / "eval.csv").is_file()


def test_the_notebook_runs_in_jupyter_with_a_live_table(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    # One display that was updated: the table of the end, and no line per interval.
    tables = [out.data["text/html"] for out in first.outputs if "text/html" in out.get("data", {})]
    assert any("1,600 of 1,600 env steps (100.0%)" in table for table in tables)
    printed = "".join(out.text for out in first.outputs if out.output_type == "stream")
    assert "of 1,600 env steps" not in printed
    assert "trained for 1600 env steps" in printed
