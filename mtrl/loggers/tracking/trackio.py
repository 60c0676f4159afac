"""Trackio (https://huggingface.co/docs/trackio): curves in a local database, shown by `trackio show`, or on a Space."""

from __future__ import annotations

import io
import uuid
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

from mtrl.config.yaml_io import load_mapping
from mtrl.loggers.metric_logger import loggers
from mtrl.loggers.tracking.tracked_run import TrackedRun


@loggers.register("trackio")
class TrackioLogger(TrackedRun):
    """Trackio (extra `trackio`)."""

    name, package = "trackio", "trackio"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        project: str = "mtrl"  # that the run belongs to
        group: str | None = None  # of runs that belong together
        space_id: str | None = None  # Space to log to; None: TRACKIO_SPACE_ID, or else this machine

    def start(self, run_id: str | None) -> str:
        import trackio

        # A run is found again by its name, which has to be the only one of its project.
        name = run_id or f"{self.run.name}-{uuid.uuid4().hex[:6]}"
        with redirect_stdout(io.StringIO()):  # the terminal belongs to the live table
            self._run: Any = trackio.init(
                project=self.config.project,
                name=name,
                group=self.config.group,
                space_id=self.config.space_id,
                config=load_mapping(self.run.config, "config.yaml"),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return name

    def send(self, index: int, env_steps: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=env_steps)

    def close(self) -> None:
        import trackio

        with redirect_stdout(io.StringIO()):
            trackio.finish()  # not the run's own, which would be called again when the process ends
