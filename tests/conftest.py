"""`--slow` also runs the tests that take many seconds each, `--full` those and the full-size forms of others."""

from __future__ import annotations

import pytest
import torch

from mtrl.optim.matmul_backend import choose_matmul_backend

# Two threads for matrices this small cost more than they bring, and tests may run side by side.
torch.set_num_threads(1)
# Before the first test, or what one computes would depend on which others this process has run.
choose_matmul_backend()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take many seconds each")
    parser.addoption("--full", action="store_true", help="also run those and the full-size forms")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    full, slow = config.getoption("--full"), config.getoption("--slow")
    for name, runs in {"full": full, "slow": full or slow}.items():
        skip = pytest.mark.skip(reason=f"run with --{name}")
        for item in items:
            if item.get_closest_marker(name) and not runs:  # not a keyword: folders have those too
                item.add_marker(skip)
