"""`mtrl eval`: success rate per task of a trained agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from mtrl.cli.bug_report import reported_in
from mtrl.cli.flags import FlagParser
from mtrl.cli.plugins import import_plugins
from mtrl.config.schema import chosen_suite, resolve_config
from mtrl.config.validation import shown, validated
from mtrl.config.yaml_io import load_mapping
from mtrl.env.suite import find_suite
from mtrl.errors import BadInput
from mtrl.registry import nearest
from mtrl.runs.run_directory import RunDirectory
from mtrl.types import Weights


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Settings of one evaluation."""

    episodes_per_task: PositiveInt | None = None  # episodes per task; None: as in the run's final evaluation
    checkpoint: str = "latest"  # latest, best (chosen on the goals of evaluation) or a step
    weights: Weights = "averaged"  # of the policy: averaged over updates, or those of the last update
    policy_part: str | None = None  # common: that policy of Distral; None: the policies of the tasks
    suite: str | None = None  # another suite of tasks the run was trained on
    num_workers: NonNegativeInt | None = None  # environment processes; 0: in this process, None: one per core
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] | None = None  # of the suite's variations (goals); None: the run's
    video: bool = False  # also record one episode of each task
    output: str | None = None  # JSON file for the result; None: eval.json in the run directory

    def __post_init__(self) -> None:
        if self.checkpoint not in ("best", "latest") and not self.checkpoint.isdecimal():
            hint = nearest(self.checkpoint, ["best", "latest"])
            raise BadInput(f"checkpoint: {shown(self.checkpoint)} is not allowed; must be best, latest or a step{hint}")


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code. Raises MtrlError."""
    parser = FlagParser("eval", "Evaluate a trained agent by the protocol of its suite: success rate per task.")
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_settings(EvaluationSettings, EvaluationSettings())
    parser.add_plugin_flag()
    flags = parser.parse(arguments)
    run_dir, modules = Path(flags.pop("run")), flags.pop("plugin", [])
    settings = validated(EvaluationSettings, flags, "")
    document = load_mapping(RunDirectory.open(run_dir).config(), str(run_dir / "config.yaml"))
    names = {"suite": settings.suite} if settings.suite else {}
    plugins = import_plugins(modules, names, warm_up=chosen_suite(document, names))
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
