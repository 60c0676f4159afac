"""`mtrl export`: the policy of a run as a file for other programs, with a model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from mtrl.api.operations import export_run
from mtrl.cli.flags import FlagParser
from mtrl.config.validation import validated
from mtrl.export.folder import ExportSettings
from mtrl.loggers.console import say


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code. Raises MtrlError."""
    parser = FlagParser(
        "export",
        "Write the policy of a run as one file, (observation, task_id) -> deterministic action, checked against the "
        "agent on random inputs, into a folder with a model card.",
    )
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_settings(ExportSettings, ExportSettings())
    parser.add_plugin_flag()
    flags = parser.parse(arguments)
    run_dir, modules = Path(flags.pop("run")), flags.pop("plugin", [])
    folder = export_run(run_dir, validated(ExportSettings, flags, ""), modules)
    say(f"exported, and checked against the agent: {folder}; next: mtrl push {quote(str(folder))} --repo-id NAME/MODEL")
    return 0
