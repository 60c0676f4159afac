"""A report of runs: one HTML file with statistics over seeds, curves and matrices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtrl.errors import BadInput


def write_report(paths: Sequence[str], output: Path, *, csv_files: bool = False, png_files: bool = False) -> list[Path]:
    """See `mtrl.report.page.write_report`. Raises BadInput where the packages of the extra `report` are missing too."""
    try:
        from mtrl.report import page
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mtrl"):
            raise
        raise BadInput(f"a report needs {error.name}; pip install 'mtrl-suite[report]'") from error
    return page.write_report(paths, output, csv_files=csv_files, png_files=png_files)
