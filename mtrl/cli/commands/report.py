"""`mtrl report`: one HTML file about runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrl.cli.flags import FlagParser
from mtrl.config.validation import validated
from mtrl.loggers.console import say
from mtrl.report import write_report


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Settings of a report."""

    output: str = "report.html"  # the file to write
    csv: bool = False  # also write two tables beside it: the summary, and the scores of every run
    png: bool = False  # also write the figures to a folder beside it


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code. Raises BadInput, StorageFailure."""
    parser = FlagParser(
        "report", "Compare runs in one HTML file that opens offline. Runs that differ in seed are one method."
    )
    help_text = "run directory, or a folder with some in it; NAME=PATH names the method"
    parser.add_argument("runs", metavar="[NAME=]PATH", nargs="+", help=help_text)
    parser.add_settings(ReportSettings, ReportSettings())
    flags = parser.parse(arguments)
    paths = flags.pop("runs")
    settings = validated(ReportSettings, flags, "")
    for path in write_report(paths, Path(settings.output), csv_files=settings.csv, png_files=settings.png):
        say(str(path))
    return 0
