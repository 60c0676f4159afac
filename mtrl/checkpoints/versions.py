"""Versions of the packages that a run depends on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata

import mtrl

DEPENDENCIES = ("torch", "numpy", "gymnasium")


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions by distribution name."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


@cache
def dependency_versions() -> Mapping[str, str]:
    """Versions of what every checkpoint depends on."""
    return {"mtrl-suite": mtrl.__version__, **package_versions(DEPENDENCIES)}
