"""Evaluation of a run's checkpoint by the protocol of a suite."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mtrl.checkpoints.files import printable, replace_file
from mtrl.checkpoints.json_text import dump_json
from mtrl.config.schema import changed, with_suite
from mtrl.errors import BadInput
from mtrl.evaluation.evaluator import EvaluationResult, EvaluationStopped, Evaluator
from mtrl.evaluation.video import write_videos
from mtrl.faults import named_plugin_faults
from mtrl.loggers.console import say, success_table
from mtrl.loggers.metric_rows import evaluation_metrics
from mtrl.optim.matmul_backend import choose_matmul_backend
from mtrl.optim.torch_defaults import torch_defaults
from mtrl.runs.logs import EvaluationRow
from mtrl.runs.run_directory import EVALUATION, VIDEOS
from mtrl.training.build import build_suite, num_workers
from mtrl.training.interruption import Interrupted, Interruption
from mtrl.training.load import TaskNames, load_trained
from mtrl.training.restore import suite_facts
from mtrl.training.videos import refuse_videos
from mtrl.types import SuiteSpec, Weights


@named_plugin_faults()
@torch_defaults()
def evaluate(
    run_dir: Path,
    *,
    checkpoint: str = "latest",
    weights: Weights = "averaged",
    policy_part: str | None = None,
    episodes_per_task: int | None = None,
    suite: str | None = None,
    workers: int | None = None,
    seed: int | None = None,
    video: bool = False,
    output: Path | None = None,
    plugins: Sequence[str] | None = None,
) -> EvaluationResult:
    """Plays the protocol with a checkpoint of a run, prints the success table and writes the result.

    It is written to `output`, by default eval.json of the run. Raises MtrlError, and Interrupted after a signal.
    """
    choose_matmul_backend()
    # `Path.is_dir` raises for names that are too long.
    if output is not None and os.path.isdir(output):
        raise BadInput(f"output: {printable(str(output), 160)} is a folder")
    if output is not None and not os.path.isdir(output.parent):
        raise BadInput(f"output: there is no folder {printable(str(output.parent), 160)}")
    trained = load_trained(run_dir, checkpoint, plugins, weights, policy_part=policy_part)
    config = trained.config
    if config.settings.torch_threads:
        torch.set_num_threads(config.settings.torch_threads)
    if workers is not None:
        config = changed(config, {"num_workers": workers})
    if suite is not None:
        config = with_suite(config, suite)
    played_seed = config.settings.seed if seed is None else seed
    played = build_suite(config.suite, played_seed)
    if video:
        refuse_videos(played, "video")
    agent = TaskNames(trained.agent, played.spec)
    settings = config.settings
    with (
        Interruption() as interruption,
        Evaluator(played, played_seed, num_workers(config), settings.worker_timeout) as evaluator,
    ):
        try:
            episodes = episodes_per_task or settings.final_eval_episodes_per_task or 50
            result = evaluator.evaluate(agent, episodes, lambda: bool(interruption))
        except EvaluationStopped:
            raise Interrupted(interruption.exit_code) from None
    success_table(result, f"{run_dir}, {trained.checkpoint}")
    about = {"run": str(run_dir), "checkpoint": trained.checkpoint, "env_steps": trained.env_steps, "seed": played_seed}
    path = Path(run_dir) / EVALUATION if output is None else output
    replace_file(path, dump_json({**about, **_result_json(result, played.spec, trained.env_steps)}, indent=2) + b"\n")
    if video:
        for path in write_videos(agent, played, played_seed, Path(run_dir) / VIDEOS, trained.env_steps):
            say(str(path))
    return result


def _result_json(result: EvaluationResult, spec: SuiteSpec, env_steps: int) -> dict[str, Any]:
    """The protocol, the metrics by name, and every episode of every task."""
    columns = zip(spec.task_names, result.success_rates.tolist(), result.mean_returns.tolist(), strict=True)
    rows = [
        EvaluationRow(env_steps, name, result.episodes_per_task, rate, return_, "final")
        for name, rate, return_ in columns
    ]
    episodes = zip(spec.task_names, result.successes.tolist(), result.returns.tolist(), strict=True)
    return {
        **suite_facts(spec),
        "metrics": evaluation_metrics(spec, rows),
        "episodes": {name: {"success": success, "return": return_} for name, success, return_ in episodes},
    }
