"""Networks made by these tests start with the same weights in every run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mtrl.seeding import seeded_construction


@pytest.fixture(autouse=True)
def _same_initial_weights() -> Iterator[None]:
    with seeded_construction(1, "initial weights of tests"):
        yield
