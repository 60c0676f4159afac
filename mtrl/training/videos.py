"""Videos of the evaluated policy as it learns."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from mtrl.env.suite import Suite
from mtrl.errors import BadInput
from mtrl.evaluation.video import write_videos
from mtrl.faults import error_line
from mtrl.loggers.metric_logger import MetricLogger
from mtrl.runs.run_directory import RunDirectory
from mtrl.training.callbacks import due
from mtrl.training.interruption import Interruption
from mtrl.training.train_state import TrainState
from mtrl.types import Progress

logger = logging.getLogger(__name__)


class VideoCallback:
    """Films one episode of every task at intervals, under `videos/` of the run.

    The first fault is logged and ends the filming, not the run.
    """

    def __init__(
        self,
        run: RunDirectory,
        state: TrainState,
        suite: Suite,
        seed: int,
        interval: int,
        interruption: Interruption,
        loggers: Sequence[MetricLogger],
    ):
        self._folder, self._state, self._suite, self._seed = run.videos, state, suite, seed
        self._interval, self._interruption, self._loggers = interval, interruption, loggers
        self._last = state.env_steps
        self.seconds = 0.0  # that filming has taken

    def __call__(self, progress: Progress) -> None:
        if not due(progress.env_steps, self._last, self._interval):
            return
        self._last = progress.env_steps
        started = time.monotonic()
        self._report(0)
        videos = write_videos(self._state.agent, self._suite, self._seed, self._folder, progress.env_steps)
        try:
            for ended, _ in enumerate(videos, start=1):
                self._report(ended)
                if self._interruption:
                    break
        except Exception as error:  # of a renderer, a driver, a full disk
            self._interval = 0
            logger.warning("no more videos, the run goes on: %s", error_line(error))
        self.seconds += time.monotonic() - started

    def _report(self, ended: int) -> None:
        for own in self._loggers:
            own.on_evaluation_progress(ended, self._state.envs.spec.num_tasks)


def refuse_videos(suite: Suite, setting: str = "video_interval") -> None:
    """Raises BadInput for a suite that has no pictures; `setting` asks for them."""
    if type(suite).render_episode is Suite.render_episode:
        raise BadInput(f"{setting}: suite {suite.spec.name!r} has no pictures")
