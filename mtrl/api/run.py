"""Runs in Python: `mtrl.train(...)`, and what can be done with a run that is there."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtrl.api import operations
from mtrl.api.configuration import GROUPS, Choosable, Plugins, configuration, default_run_dir, named, plugin_modules
from mtrl.api.operations import RESUME_SETTINGS, EvaluationSettings
from mtrl.api.process import process_left_alone
from mtrl.config.schema import RunConfig, parse_yaml
from mtrl.config.validation import refuse_unknown, validated
from mtrl.data_parallel.torchrun import refuse_torchrun
from mtrl.env.episodes import RandomEpisodes
from mtrl.env.suite import Mode
from mtrl.env.vector_env import MultiTaskVectorEnv
from mtrl.faults import named_plugin_faults
from mtrl.registry import discover_plugins
from mtrl.runs.columns import load_metrics
from mtrl.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from mtrl.evaluation.evaluator import EvaluationResult
    from mtrl.training.load import TrainedAgent


class Run:
    """A run directory. Wherever a run directory is expected, the object can be given."""

    def __init__(self, path: str | PathLike[str], plugins: Plugins = ()):
        """plugins: modules to import, or classes, that the run's configuration names. Raises BadInput."""
        self.path = Path(path)
        self._modules = plugin_modules(plugins)
        RunDirectory.open(self.path)

    def __fspath__(self) -> str:
        return fspath(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def config(self) -> RunConfig:
        """All settings. Raises BadInput."""
        discover_plugins()
        return parse_yaml(RunDirectory.open(self.path).config(), str(self.path / "config.yaml"), self._modules)

    def metrics(self) -> dict[str, np.ndarray]:
        """The metrics as columns by name, see `mtrl.load_metrics`."""
        return load_metrics(self.path)

    @cached_property
    def policy(self) -> TrainedAgent:
        """The agent of the last checkpoint, with `predict(observation, task)`; loaded once. Raises BadInput."""
        from mtrl.training.load import load_agent

        with process_left_alone():
            return load_agent(self.path, plugins=self._modules)

    @process_left_alone()
    def evaluate(self, **settings: Any) -> EvaluationResult:
        """Plays the suite's protocol, prints the table and writes eval.json, as `mtrl eval` does.

        settings: the flags of `mtrl eval`, such as episodes_per_task=50, checkpoint="best". Raises MtrlError.
        """
        from mtrl.training.interruption import Interrupted

        checked = validated(EvaluationSettings, settings, "")
        try:
            return operations.evaluate(self.path, checked, self._modules)
        except Interrupted as stopped:
            end_program(stopped.exit_code)
            raise

    @process_left_alone()
    def export(self, **settings: Any) -> Path:
        """Writes the policy as a file for other programs, as `mtrl export` does; returns the folder.

        settings: the flags of `mtrl export`: format="onnx", output="folder", checkpoint="best". Raises MtrlError.
        """
        from mtrl.export.folder import ExportSettings

        return operations.export_run(self.path, validated(ExportSettings, settings, ""), self._modules)

    @process_left_alone()
    def resume(self, **settings: Any) -> Run:
        """The rest of the run from its last checkpoint, as `mtrl train --resume` does; returns the run anew.

        settings: what a resume may change: total_env_steps, max_hours, logger, logger_settings, num_workers,
        worker_timeout, device.
        Raises MtrlError.
        """
        refuse_torchrun("Run.resume")
        refuse_unknown(settings, RESUME_SETTINGS, "")
        modules = list(self._modules)
        settings = {key: named(GROUPS.get(key), value, modules) for key, value in settings.items()}
        end_program(operations.resume(self.path, settings, modules))
        return Run(self.path, tuple(modules))


@process_left_alone()
def train(
    settings: Mapping[str, Any],
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    run_dir: str | PathLike[str] | None = None,
    overwrite: bool = False,
    plugins: Plugins = (),
) -> Run:
    """See `mtrl.train`."""
    refuse_torchrun("mtrl.train")
    with named_plugin_faults():
        resolved = configuration(settings, config, plugins)
    folder = default_run_dir(resolved) if run_dir is None else Path(run_dir)
    end_program(operations.train(resolved, folder, overwrite=overwrite))
    return Run(folder, resolved.plugins)


@process_left_alone()
def make_env(
    suite: Choosable,
    *,
    num_envs: int | None = None,
    seed: int = 1,
    num_workers: int = 0,
    mode: Mode = "train",
    worker_timeout: float = 60.0,
    plugins: Plugins = (),
) -> MultiTaskVectorEnv:
    """See `mtrl.make_env`."""
    from mtrl.training.build import build_suite

    settings = {"num_envs": num_envs, "seed": seed, "num_workers": num_workers, "worker_timeout": worker_timeout}
    with named_plugin_faults():
        config = configuration({"suite": suite, **settings}, plugins=plugins)
        made = build_suite(config.suite, seed)
        slots = num_envs or made.spec.num_tasks
        return made.make_envs(
            slots,
            RandomEpisodes(made.spec, slots, seed),
            mode=mode,
            num_workers=num_workers,
            worker_timeout=worker_timeout,
        )


def end_program(exit_code: int) -> None:
    """Hands on the signal that stopped a run, which has saved its checkpoint: the program is to stop too."""
    if exit_code == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if exit_code:
        raise SystemExit(exit_code)
