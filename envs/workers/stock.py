"""The environments of one process, which its slots take and give back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

E = TypeVar("E")


class Stock(ABC, Generic[E]):
    """Makes environments, each of which plays in one slot at a time, and keeps those that no slot plays in.

    At most as many as there are tasks are kept idle, so a process holds no more than its slots and tasks together,
    whatever tasks its slots change to.
    """

    def __init__(self, num_tasks: int):
        self._num_tasks = num_tasks
        self._idle: list[tuple[int, E]] = []  # the longest idle first

    @abstractmethod
    def _make(self, task: int) -> E:
        """A new environment of a task."""

    def take(self, task: int) -> E:
        """An environment of the task that no slot plays in; a new one if there is none."""
        for position, (idle_task, env) in enumerate(self._idle):
            if idle_task == task:
                del self._idle[position]
                return env
        return self._make(task)

    def give_back(self, task: int, env: E) -> None:
        """Another slot may take it now."""
        self._idle.append((task, env))
        if len(self._idle) > self._num_tasks:
            del self._idle[0]
