"""Training, resuming and evaluating runs, as the command line does and Python programs do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from mtrl.api.bug_report import reported_in
from mtrl.api.plugins import check_chosen_plugins, import_plugins
from mtrl.config.schema import RunConfig, chosen_suite, resolve_config, resumed
from mtrl.config.validation import shown
from mtrl.config.yaml_io import load_mapping
from mtrl.env.suite import find_suite
from mtrl.errors import BadInput
from mtrl.faults import named_plugin_faults
from mtrl.registry import nearest
from mtrl.runs.run_directory import RunDirectory
from mtrl.types import Weights

if TYPE_CHECKING:
    from mtrl.evaluation.evaluator import EvaluationResult
    from mtrl.export.folder import ExportSettings

RESUME_SETTINGS = (
    "total_env_steps",
    "max_hours",
    "logger",
    "logger_settings",
    "num_workers",
    "worker_timeout",
    "device",
)
"""Settings that a resume may change."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Settings of one evaluation."""

    episodes_per_task: PositiveInt | None = None  # episodes per task; None: as in the run's final evaluation
    checkpoint: str = "latest"  # latest, best (chosen on the goals of evaluation) or a step
    weights: Weights = "averaged"  # of the policy: averaged over updates, or those of the last update
    policy_part: str | None = None  # common: that policy of Distral; None: the policies of the tasks
    suite: str | None = None  # another suite of tasks the run was trained on
    num_workers: NonNegativeInt | None = None  # environment processes; 0: in this process, None: one per core
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] | None = None  # of variations (goals) and episodes; None: the run's
    video: bool = False  # also record one episode of each task
    output: str | None = None  # JSON file for the result; None: eval.json in the run directory

    def __post_init__(self) -> None:
        refuse_wrong_checkpoint(self.checkpoint)


def refuse_wrong_checkpoint(checkpoint: str) -> None:
    """Raises BadInput for what names no checkpoint."""
    if checkpoint not in ("best", "latest") and not checkpoint.isdecimal():
        hint = nearest(checkpoint, ["best", "latest"])
        raise BadInput(f"checkpoint: {shown(checkpoint)} is not allowed; must be best, latest or a step{hint}")


def train(config: RunConfig, run_dir: Path, *, overwrite: bool = False) -> int:
    """A new run; returns the exit code. Raises MtrlError."""
    from mtrl.data_parallel.ranks import agreed
    from mtrl.training import run

    with reported_in(run_dir), named_plugin_faults():
        with agreed(), named_plugin_faults():
            if config.settings.check_plugins:
                check_chosen_plugins(config)
        return run.train(config, run_dir, overwrite=overwrite)


def plugins_of(
    run_dir: Path, changes: Mapping[str, Any], modules: Sequence[str] = (), *, warm_up: bool = False
) -> list[str]:
    """The plug-ins of a run that is resumed with other settings. Raises BadInput where that cannot be.

    modules: plug-ins that the caller names. warm_up: what takes long to start is started before torch is imported.
    """
    document = load_mapping(RunDirectory.open(run_dir).config(), str(run_dir / "config.yaml"))
    plugins = import_plugins(modules, warm_up=chosen_suite(document) if warm_up else None)
    resumed(resolve_config(document, plugins=plugins), changes)
    return plugins


def resume(run_dir: Path, changes: Mapping[str, Any], modules: Sequence[str] = ()) -> int:
    """The rest of a run, from its last checkpoint; returns the exit code. Raises MtrlError.

    modules: plug-ins that the caller names.
    """
    plugins = plugins_of(run_dir, changes, modules)

    from mtrl.training import run

    with reported_in(run_dir):
        return run.resume(run_dir, changes, plugins)


def evaluate(
    run_dir: Path, settings: EvaluationSettings, modules: Sequence[str] = (), *, warm_up: bool = False
) -> EvaluationResult:
    """An evaluation of a run by the protocol of its suite. Raises MtrlError, and Interrupted after a signal."""
    document = load_mapping(RunDirectory.open(run_dir).config(), str(run_dir / "config.yaml"))
    names = {"suite": settings.suite} if settings.suite else {}
    plugins = import_plugins(modules, names, warm_up=chosen_suite(document, names) if warm_up else None)
    resolve_config(document, plugins=plugins)
    if settings.suite:
        find_suite(settings.suite)

    from mtrl.training import evaluate as evaluation

    with reported_in(run_dir):
        return evaluation.evaluate(
            run_dir,
            checkpoint=settings.checkpoint,
            weights=settings.weights,
            policy_part=settings.policy_part,
            episodes_per_task=settings.episodes_per_task,
            suite=settings.suite,
            workers=settings.num_workers,
            seed=settings.seed,
            video=settings.video,
            output=None if settings.output is None else Path(settings.output),
            plugins=plugins,
        )


def export_run(run_dir: Path, settings: ExportSettings, modules: Sequence[str] = ()) -> Path:
    """The policy of a run as a file, in a folder with a model card; returns the folder. Raises MtrlError."""
    refuse_wrong_checkpoint(settings.checkpoint)
    document = load_mapping(RunDirectory.open(run_dir).config(), str(run_dir / "config.yaml"))
    plugins = import_plugins(modules)
    resolve_config(document, plugins=plugins)

    from mtrl.export import folder

    with reported_in(run_dir):
        return folder.export(run_dir, settings, plugins)
