"""`mtrl push`: an exported policy to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrl.api.operations import export_run
from mtrl.cli.flags import FlagParser
from mtrl.config.validation import validated
from mtrl.errors import BadInput
from mtrl.export.folder import ExportSettings, is_export, refuse_outdated
from mtrl.export.hub import push
from mtrl.loggers.console import say


@dataclass(frozen=True, kw_only=True)
class PushSettings:
    """Settings of an upload."""

    repo_id: str | None = None  # repository on the hub, such as you/mt10-policy
    private: bool = False  # whether a new repository is private


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code. Raises MtrlError."""
    parser = FlagParser(
        "push", "Upload an exported policy to the Hugging Face hub; a run without an export is exported first."
    )
    parser.add_argument("path", metavar="RUN|FOLDER", help="run directory, or a folder of mtrl export")
    parser.add_settings(PushSettings, PushSettings())
    parser.add_plugin_flag()
    flags = parser.parse(arguments)
    path, modules = Path(flags.pop("path")), flags.pop("plugin", [])
    settings = validated(PushSettings, flags, "")
    if not settings.repo_id:
        raise BadInput("--repo-id is needed: the repository on the hub, such as --repo-id you/mt10-policy")
    if not is_export(path):
        run_dir, path = path, path / "export"
        if is_export(path):
            refuse_outdated(run_dir, path)
        else:
            export_run(run_dir, ExportSettings(), modules)
    say(f"uploaded {path}: {push(path, settings.repo_id, private=settings.private)}")
    return 0
