"""The loggers and callbacks that a configuration names."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtrl.config.schema import Choice, ConfigGroup, RunSettings, config_class
from mtrl.config.validation import shown, validated
from mtrl.errors import BadInput
from mtrl.faults import error_line
from mtrl.loggers import csv_table, tensorboard
from mtrl.loggers.metric_logger import Callback, LoggedRun, MetricLogger, callbacks, loggers
from mtrl.loggers.tracking import mlflow, trackio, wandb
from mtrl.registry import nearest
from mtrl.runs.logs import EvaluationRow
from mtrl.types import Progress

__all__ = ["callbacks", "csv_table", "loggers", "mlflow", "tensorboard", "trackio", "wandb"]

LOGGER = ConfigGroup("logger", "mtrl.loggers.chosen", "loggers", "tensorboard")
CALLBACK = ConfigGroup("callback", "mtrl.loggers.chosen", "callbacks", "")

logger = logging.getLogger(__name__)


def chosen_loggers(settings: RunSettings) -> list[Choice]:
    """Raises BadInput for an unknown name or setting, or if a package is missing."""
    choices = _chosen(LOGGER, settings.logger, settings.logger_settings)
    for choice in choices:
        loggers.get(choice.name).check_packages()
    return choices


def chosen_callbacks(settings: RunSettings) -> list[Choice]:
    """Raises BadInput for an unknown name or setting."""
    return _chosen(CALLBACK, settings.callback, settings.callback_settings)


def _chosen(group: ConfigGroup, names: Sequence[str], settings: Mapping[str, Any]) -> list[Choice]:
    """The classes of these names with their settings, whose keys are `NAME.SETTING`."""
    values: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in settings.items():
        name, _, setting = key.rpartition(".")
        if name not in values:
            raise BadInput(
                f"{group.name}_settings: {shown(key)} is not allowed; must be NAME.SETTING of a {group.name} of this "
                f"run{nearest(name, values)}; its {group.name}s: {', '.join(values) or 'none'}"
            )
        values[name][setting] = value
    return [Choice(name, validated(config_class(group, name), own, f"{name}.")) for name, own in values.items()]


def make_loggers(choices: Sequence[Choice], run: LoggedRun) -> Iterator[MetricLogger]:
    """Starts the loggers one after the other, guarded.

    Raises BadInput if one cannot start. In a resumed run, which may be one that nobody watches, it is left out.
    """
    for choice in choices:
        try:
            made = LOGGER.find(choice.name)(run, choice.config)
        except (Exception, SystemExit) as error:
            if run.resumed_at is None:
                raise BadInput(f"logger {choice.name!r} cannot start: {error_line(error)}") from error
            _warn(choice.name, error)
        else:
            yield GuardedLogger(choice.name, made)


def make_callbacks(choices: Sequence[Choice], run: LoggedRun) -> Iterator[Callback]:
    """Makes the callbacks one after the other."""
    for choice in choices:
        yield CALLBACK.find(choice.name)(run, choice.config)


def _warn(name: str, error: BaseException) -> None:
    logger.warning("logger %r has stopped, the run goes on without it: %s", name, error_line(error))


class GuardedLogger(MetricLogger):
    """A logger whose first fault is a warning and the end of it: the run goes on."""

    def __init__(self, name: str, guarded: MetricLogger):
        self._name, self._guarded = name, guarded
        self._working = True

    def _call(self, method: str, *arguments: Any) -> None:
        if self._working:
            try:
                getattr(self._guarded, method)(*arguments)
            except (Exception, SystemExit) as error:
                self._working = False
                _warn(self._name, error)

    def on_progress(self, progress: Progress, shares: Sequence[float]) -> None:
        self._call("on_progress", progress, shares)

    def on_metrics(self, row: Mapping[str, Any]) -> None:
        self._call("on_metrics", row)

    def on_evaluation_progress(self, ended: int, total: int) -> None:
        self._call("on_evaluation_progress", ended, total)

    def on_evaluation(self, rows: Sequence[EvaluationRow], metrics: Mapping[str, Any]) -> None:
        self._call("on_evaluation", rows, metrics)

    def on_checkpoint(self, env_steps: int, folder: Path) -> None:
        self._call("on_checkpoint", env_steps, folder)

    def close(self) -> None:
        self._call("close")
