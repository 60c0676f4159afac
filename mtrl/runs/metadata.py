"""Facts for `meta.json` about the program and the machine that a run was made with."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mtrl.checkpoints.versions import dependency_versions, package_versions
from mtrl.optim.cpu import available_cores


def program_facts(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Versions of what every run uses and of `packages` (distribution names), source revision, Python and cores."""
    return {
        "versions": {**dependency_versions(), **package_versions(packages)},
        "git": source_revision(Path(__file__).resolve().parents[2]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": available_cores(),
    }


def source_revision(folder: Path) -> dict[str, Any] | None:
    """Commit of the source at `folder` and whether it was changed since; None if it is not a git checkout."""
    if not (folder / ".git").exists():
        return None
    git = ["git", "-C", str(folder)]
    try:
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 10, "check": True}
        commit = subprocess.run([*git, "rev-parse", "HEAD"], **options).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], **options).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "modified": bool(changes.strip())}
