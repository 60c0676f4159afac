"""Table of methods by suites, from folders that `benchmarks.learning` wrote, and a picture of their curves.

python -m benchmarks.learning.comparison [NAME=]FOLDER ... [--output table.md] [--curves curves.png] [--plugin MODULE]

A folder is one method on one suite. Its method is called by what was chosen (`sac, multi-head`), or by NAME. Success
rates are those of the final evaluations, by the suite's protocol; every figure is the median over the folder's seeds,
in brackets the lowest and highest. What was not measured alike is marked in the row: fewer env steps than the row with
the most, fewer seeds, fewer episodes. Suites of one name with different settings are refused.
Parameters are those that the agent trains; minutes are of training with its periodic evaluations, on whatever machine
it was. The picture (matplotlib: `pip install -e '.[benchmarks]'`) has the success rates of training, task by task.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import agents
import envs
from benchmarks.learning.results import Entry, read_entry
from benchmarks.repeats import Repeats
from mtrl.errors import BadInput
from mtrl.registry import trust_module

FEWER_ENV_STEPS, FEWER_SEEDS, FEWER_EPISODES = "\\*", "†", "‡"
TOLERANCE = 0.01
"""Share of the env steps by which runs of equal length may differ: a run ends with a whole vector step."""


def by_suite(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The entries of every suite. Raises BadInput where two cannot stand in one table."""
    suites: dict[str, list[Entry]] = {}
    for entry in entries:
        rows = suites.setdefault(entry.suite, [])
        for other in rows:
            if other.method == entry.method:
                raise BadInput(f"two folders for {entry.method!r} on {entry.suite}; name them, NAME=FOLDER")
            if other.config.suite != entry.config.suite or set(other.tasks) != set(entry.tasks):
                raise BadInput(f"{other.method!r} and {entry.method!r}: {entry.suite} with different settings")
        rows.append(entry)
    return suites


def marks(entry: Entry, rows: Sequence[Entry]) -> str:
    """What this row has less of than others of its suite."""
    fewer = [
        (FEWER_ENV_STEPS, entry.env_steps < (1 - TOLERANCE) * max(row.env_steps for row in rows)),
        (FEWER_SEEDS, len(entry.seeds) < max(len(row.seeds) for row in rows)),
        (FEWER_EPISODES, entry.episodes < max(row.episodes for row in rows)),
    ]
    return "".join(mark for mark, applies in fewer if applies)


def table(entries: Sequence[Entry]) -> str:
    """Markdown: methods by suites, then the tasks of every suite."""
    suites = by_suite(entries)
    methods = list(dict.fromkeys(entry.method for entry in entries))
    overview = []
    for method in methods:
        cells = [method]
        for rows in suites.values():
            own = next((row for row in rows if row.method == method), None)
            cells.append("" if own is None else f"{_mean(own).shown(3)}{marks(own, rows)}")
        overview.append(cells)
    blocks = [
        "Success rate at the end, mean of the tasks: median over seeds (lowest to highest)\n",
        _markdown(["method", *suites], overview),
    ]
    for suite, rows in suites.items():
        tasks = rows[0].tasks
        header = ["method", *tasks, "mean", "mean over seeds", "seeds", "env steps", "minutes", "parameters"]
        blocks += [f"\n## {suite}\n", _markdown(header, [_row(entry, rows, tasks) for entry in rows])]
    explained = [
        f"{FEWER_ENV_STEPS} fewer env steps than other rows of the suite",
        f"{FEWER_SEEDS} fewer seeds",
        f"{FEWER_EPISODES} fewer episodes per task at the end",
    ]
    used = "".join(marks(entry, rows) for rows in suites.values() for entry in rows)
    noted = [text for text in explained if text.split(" ", 1)[0] in used]
    return "\n".join([*blocks, *(["\nNot measured alike: " + "; ".join(noted) + "."] if noted else [])]) + "\n"


def _row(entry: Entry, rows: Sequence[Entry], tasks: Sequence[str]) -> list[str]:
    means = _mean(entry)
    return [
        f"{entry.method}{marks(entry, rows)}",
        *(f"{entry.success_rate(task).median:.2f}" for task in tasks),
        means.shown(3),
        f"{sum(means.values) / len(means.values):.3f}",
        str(len(entry.seeds)),
        f"{entry.env_steps:,}",
        f"{entry.over_seeds(lambda result: result.minutes).median:.1f}",
        f"{entry.num_parameters:,}",
    ]


def _mean(entry: Entry) -> Repeats:
    return entry.over_seeds(lambda result: result.mean_success_rate)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> int:
    """Prints the table; 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="[NAME=]FOLDER", help="written by benchmarks.learning")
    parser.add_argument("--output", type=Path, help="the table as a Markdown file")
    parser.add_argument("--curves", type=Path, help="the picture, e.g. curves.png")
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="to import")
    arguments = parser.parse_args()
    agents.register()
    envs.register()
    try:
        for module in arguments.plugin:
            trust_module(module)
        named = [(name or None, Path(path)) for name, _, path in (text.rpartition("=") for text in arguments.folders)]
        entries = [read_entry(path, name) for name, path in named]
        text = table(entries)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(text, end="")
    if arguments.output:
        arguments.output.write_text(text)
    if arguments.curves:
        from benchmarks.learning.curves import draw  # needs matplotlib

        draw(by_suite(entries), arguments.curves)
    return 0


if __name__ == "__main__":
    sys.exit(main())
