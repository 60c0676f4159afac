"""How many threads torch acts with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mtrl.types import TaskSuite


@contextmanager
def acting_threads(suite: TaskSuite) -> Iterator[None]:
    """One thread where observations are vectors; torch's number, which learning keeps, where they are images.

    A few rows of a perceptron are nothing to share out, and an OpenMP thread that waits for more of them keeps the
    environments off its core.
    """
    threads = torch.get_num_threads()
    if len(suite.observation_space.shape) == 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
