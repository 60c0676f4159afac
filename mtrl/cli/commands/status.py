"""`mtrl status`: how far the runs in a folder are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from mtrl.checkpoints.files import printable
from mtrl.cli.flags import FlagParser
from mtrl.errors import BadInput
from mtrl.launch.run_status import RunStatus, read_status, run_directories
from mtrl.launch.table import STYLES, counted
from mtrl.loggers.console import make_console, say
from mtrl.loggers.live_table import clock


def main(arguments: Sequence[str]) -> int:
    """Prints a line for each run and returns 0. Raises BadInput for a folder without runs."""
    parser = FlagParser("status", "Say how far the runs in a folder are, from what they have written.")
    parser.add_argument("folder", metavar="FOLDER", help="folder with run directories, or one of them")
    folder = Path(parser.parse(arguments)["folder"])
    runs = {path: read_status(path) for path in run_directories(folder)}
    if not runs:
        where = " in it" if folder.is_dir() else ""
        raise BadInput(f"{printable(str(folder), 160)}: no run directory{where}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", style="cyan", overflow="fold")
    table.add_column("status", no_wrap=True)
    for column in ("env steps", "of total", "training", "evaluation", "score", "last write"):
        table.add_column(column, justify="right", no_wrap=True)
    for path, run in runs.items():
        name = str(path.relative_to(folder))
        table.add_row(Text(path.name if name == "." else name), *_cells(run))
    make_console().print(table)
    say(counted([run.status for run in runs.values()]))
    return 0


def _cells(run: RunStatus) -> list[Text]:
    standing, total = run.standing, run.total_env_steps
    status = f"failed ({run.exit_code})" if run.status == "failed" else run.status
    return [
        Text(status, style=STYLES[run.status]),
        Text(f"{standing.env_steps:,}"),
        Text("-" if total is None else f"{standing.env_steps / total:.1%}"),
        Text(standing.shown(standing.training)),
        Text(standing.shown(standing.evaluation)),
        Text(standing.score),
        Text("-" if run.seconds is None else f"{clock(run.seconds)} ago"),
    ]
