"""Environments: Meta-World, Atari, small suites of known optimum, and the worker pool that plays them in parallel.

Importing this package imports no simulator; `register` imports the suites, which import theirs when they are stepped.
"""

from __future__ import annotations

import importlib

_SUITE_MODULES = (
    "envs.metaworld.suite",
    "envs.atari.suite",
    "envs.gymnasium_suite.suite",
    "envs.vizdoom.suite",
    "envs.point_mass",
)


def register() -> None:
    """Plug-in hook: makes every suite of this package known by name."""
    for module in _SUITE_MODULES:
        importlib.import_module(module)
