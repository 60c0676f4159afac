"""The stand-in for worker processes when there are none: the same slots, played in the main process."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence

from envs.workers.slots import SlotArrays, SlotEnvFactory, SlotLayout, SlotRunner
from envs.workers.worker import BEGIN
from mtrl.errors import WorkerFailure


class LocalWorker:
    """Plays all slots in this process; what hangs here hangs the run."""

    def __init__(self, layout: SlotLayout, make_env: SlotEnvFactory, task_names: Sequence[str]):
        self.arrays = SlotArrays(layout, bytearray(layout.num_bytes))
        self._task_names = task_names
        self._make_env = make_env
        self._slots = range(layout.num_slots)
        self._runner: SlotRunner | None = None
        self._closed = False

    def start(self, costs: Sequence[float]) -> None:
        """Nothing to start."""

    def command(self, command: bytes) -> None:
        """Carries the command out. Raises WorkerFailure."""
        if self._closed:
            raise RuntimeError("the environments are closed")
        try:
            if self._runner is None:
                self._runner = SlotRunner(self.arrays, self._slots, 0, self._make_env)
            self._runner.begin() if command == BEGIN else self._runner.step()
        except Exception as error:
            raise WorkerFailure(
                f"environment {self.arrays.activity(0, self._task_names)} (in this process, pid {os.getpid()}) raised "
                f"{type(error).__name__}: {error}\n{traceback.format_exc().rstrip()}"
            ) from error

    def wait(self) -> None:
        """Nothing is in flight."""

    def close(self) -> None:
        """Forgets the environments."""
        self._closed, self._runner = True, None
