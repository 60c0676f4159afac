"""`--full` runs the full-size forms of tests whose small forms run always."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run the full-size forms")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    skip = pytest.mark.skip(reason="full size: run with --full")
    for item in items:
        if "full" in item.keywords:
            item.add_marker(skip)
