"""Slots played in the main process, where there are no worker processes."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence

from envs.workers.slots import SlotArrays, SlotEnvFactory, SlotLayout, SlotRunner
from mtrl.errors import WorkerFailure


class InProcessGroup:
    """Plays all slots in this process; what hangs here hangs the run."""

    def __init__(self, layout: SlotLayout, make_env: SlotEnvFactory, task_names: Sequence[str]):
        self.arrays = SlotArrays(layout, bytearray(layout.num_bytes))
        self._task_names = task_names
        self._runner = SlotRunner(self.arrays, range(layout.num_slots), 0, make_env)
        self._closed = False

    def start(self, costs: Sequence[float]) -> None:
        """Nothing to start."""

    def command(self, command: bytes) -> None:
        """Carries the command out. Raises WorkerFailure, also where an environment calls `sys.exit`."""
        if self._closed:
            raise WorkerFailure("the environments are closed")
        try:
            self._runner.run(command)
        except (Exception, SystemExit) as error:
            raise WorkerFailure(
                f"environment (in this process, pid {os.getpid()}) {self.arrays.activity(0, self._task_names)}: "
                f"{self._runner.describe(error)}\n{traceback.format_exc().rstrip()}"
            ) from error

    def wait(self) -> None:
        """Nothing is in flight."""

    def close(self) -> None:
        """Forgets the environments."""
        self._closed = True
        self._runner.forget()
