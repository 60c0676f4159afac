"""Toy environments are registered, and nothing is trusted yet."""

from __future__ import annotations

import pytest
import toy_environments  # noqa: F401

import agents
import envs
from mtrl import registry


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    agents.register()
    envs.register()
    monkeypatch.setattr(registry, "_trusted_modules", {})
