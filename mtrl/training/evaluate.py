"""Evaluation of a run's checkpoint by the protocol of a suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mtrl.config.schema import changed, with_suite
from mtrl.faults import named_plugin_faults
from mtrl.loggers.console import say, success_table
from mtrl.optim.matmul_backend import choose_matmul_backend
from mtrl.optim.torch_defaults import torch_defaults
from mtrl.training.build import build_suite, num_workers
from mtrl.training.evaluator import EvaluationStopped, Evaluator
from mtrl.training.interruption import Interruption
from mtrl.training.load import TaskNames, load_trained
from mtrl.training.video import write_videos
from mtrl.types import Weights


@named_plugin_faults()
@torch_defaults()
def evaluate(
    run_dir: Path,
    *,
    checkpoint: str = "latest",
    weights: Weights = "averaged",
    episodes_per_task: int | None = None,
    suite: str | None = None,
    workers: int | None = None,
    seed: int | None = None,
    video: bool = False,
    plugins: Sequence[str] | None = None,
) -> int:
    """Plays the protocol with a checkpoint of a run and prints the success table; returns 0. Raises MtrlError."""
    choose_matmul_backend()
    trained = load_trained(run_dir, checkpoint, plugins, weights)
    config = trained.config
    if config.settings.torch_threads:
        torch.set_num_threads(config.settings.torch_threads)
    if workers is not None:
        config = changed(config, {"num_workers": workers})
    if suite is not None:
        config = with_suite(config, suite)
    played = build_suite(config.suite, config.settings.seed if seed is None else seed)
    agent = TaskNames(trained.agent, played.spec)
    settings = config.settings
    with (
        Interruption() as interruption,
        Evaluator(played, settings.seed, num_workers(config), settings.worker_timeout) as evaluator,
    ):
        try:
            episodes = episodes_per_task or settings.final_eval_episodes_per_task or 50
            result = evaluator.evaluate(agent, episodes, lambda: bool(interruption))
        except EvaluationStopped:
            return interruption.exit_code
    success_table(result, f"{run_dir}, {trained.checkpoint}")
    if video:
        for path in write_videos(agent, played, settings.seed, Path(run_dir) / "videos"):
            say(str(path))
    return 0
