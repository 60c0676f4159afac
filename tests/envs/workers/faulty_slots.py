"""Slot environments for the tests of the worker pool: a counter whose observation says where it is, and its faults."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.workers.slots import SlotStep

LENGTHS = (3, 5, 7)
"""Env steps of an episode of each task."""


class CountingSlot:
    """Observes (task, variation, env steps so far, sum of all actions so far)."""

    def begin(self, task: int, variation: int) -> np.ndarray:
        self.observation = np.array([task, variation, 0, 0], np.float64)
        return self.observation

    def step(self, action: Any) -> SlotStep:
        self.observation = self.observation + np.array([0, 0, 1, np.sum(action)])
        task, variation, steps, total = self.observation
        terminated = bool(variation == 3 and steps == 2)
        return SlotStep(self.observation, total, terminated, steps == LENGTHS[int(task)], total > 1)


def hang() -> None:
    """An endless loop."""
    while True:
        pass


def hog_memory() -> None:
    """Asks for more than the process may have."""
    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
    bytearray(2**33)


def fail() -> None:
    """Raises."""
    raise LookupError("the drawer is stuck")


FAULTS: dict[str, Callable[[], Any]] = {
    "raise": fail,
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": lambda: ctypes.string_at(0),
    "_exit": lambda: os._exit(0),
    "sys.exit": lambda: sys.exit(0),
    "memory": hog_memory,
    "hang": hang,
    "sleep": lambda: time.sleep(3600),
}


WRONG_RESULTS: dict[str, Callable[[SlotStep], Any]] = {
    "None": lambda result: None,
    "pair": lambda result: result[:2],
    "observation None": lambda result: result._replace(observation=None),
    "list": lambda result: result._replace(observation=result.observation.tolist()),
    "shape": lambda result: result._replace(observation=np.zeros(1)),
    "dtype": lambda result: result._replace(observation=result.observation.astype(complex)),
    "reward": lambda result: result._replace(reward=None),
}
"""Results of a step that break the interface."""


class FaultySlot(CountingSlot):
    """Counts, until a fault in the second env step or second reset of a task."""

    def __init__(self, fault: str, task: int, in_reset: bool):
        self.fault, self.task, self.in_reset = fault, task, in_reset
        self.resets = 0

    def begin(self, task: int, variation: int) -> np.ndarray:
        observation = super().begin(task, variation)
        self.resets += 1
        if self.in_reset and task == self.task and self.resets == 2:
            FAULTS[self.fault]()
        return observation

    def step(self, action: Any) -> SlotStep:
        result = super().step(action)
        if not self.in_reset and result.observation[0] == self.task and result.observation[2] == 2:
            if self.fault in WRONG_RESULTS:
                return WRONG_RESULTS[self.fault](result)
            FAULTS[self.fault]()
        return result


@dataclass(frozen=True)
class FaultyFactory:
    """Makes slots in which one task fails."""

    fault: str
    task: int = 1
    in_reset: bool = False

    def __call__(self) -> FaultySlot:
        return FaultySlot(self.fault, self.task, self.in_reset)


class NoObservationSlot(CountingSlot):
    """Forgets to return its first observation."""

    def begin(self, task: int, variation: int) -> np.ndarray:
        super().begin(task, variation)


class UnmakeableSlot(CountingSlot):
    """Cannot be made."""

    def __init__(self) -> None:
        raise FileNotFoundError("no level file")


class SlowSlot(CountingSlot):
    """Takes 0.2 s for every step."""

    def step(self, action: Any) -> SlotStep:
        time.sleep(0.2)
        return super().step(action)


class ReportingSlot(CountingSlot):
    """Observes (process id, threads of the process, modules imported that a worker does not need, 0)."""

    def step(self, action: Any) -> SlotStep:
        with open("/proc/self/status") as file:
            threads = next(int(line.split()[1]) for line in file if line.startswith("Threads:"))
        heavy = sum(name in sys.modules for name in ("torch", "gymnasium", "pytest"))
        return super().step(action)._replace(observation=np.array([os.getpid(), threads, heavy, 0], np.float64))
