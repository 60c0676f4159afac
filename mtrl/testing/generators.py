"""A guard against the process-wide random generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from mtrl.testing.attributes import differences, leaves


@contextmanager
def global_generators_untouched(who: str) -> Iterator[None]:
    """Raises AssertionError if the body draws from or seeds `random`, `numpy.random` or torch's default generator."""
    before = _positions()
    yield
    touched = differences(before, _positions())
    names = sorted({line.split("[", 1)[0].split(":", 1)[0] for line in touched})
    assert not touched, (
        f"{who} uses the global generator of {', '.join(names)}; draw from a generator of your own instead "
        "(an agent's come from components.stream(purpose), an architecture gets its uniform numbers as `noise`)"
    )


def _positions() -> dict[str, object]:
    positions = {
        "random": random.getstate(),
        "numpy.random": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    return {f"{name}{path}": leaf for name, position in positions.items() for path, leaf in leaves(position).items()}
