"""Multi-task reinforcement learning: train, evaluate and load agents; the base that plug-ins are written against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike
    from pathlib import Path

    import numpy as np

    from mtrl.api.configuration import Choosable, Plugins
    from mtrl.api.run import Run as Run
    from mtrl.env.suite import Mode
    from mtrl.env.vector_env import MultiTaskVectorEnv
    from mtrl.training.load import TrainedAgent
    from mtrl.types import Weights

__version__ = "0.3.0"
__all__ = ["Run", "load", "load_metrics", "make_env", "train"]


def train(
    *,
    suite: Choosable | None = None,
    agent: Choosable | None = None,
    architecture: Choosable | None = None,
    policy: Choosable | None = None,
    encoder: Choosable | None = None,
    aggregator: Choosable | None = None,
    scheduler: Choosable | None = None,
    normalizer: Choosable | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    run_dir: str | PathLike[str] | None = None,
    overwrite: bool = False,
    plugins: Plugins = (),
    **settings: Any,
) -> Run:
    """Trains a new run, as `mtrl train` does: the same settings, checks and errors.

    The keywords are the keys of YAML: a class by name, `MODULE:Class` or as itself, or a mapping with its `name` and
    settings, `agent={"name": "sac", "batch_size": 640}`; and settings of the run, `total_env_steps=200_000, seed=2`.
    They override `config`, a YAML file or a mapping. `run_dir` is by default runs/SUITE-AGENT-ARCHITECTURE-seedN, and
    `overwrite` replaces a run in it. `plugins` are modules to import, as with `--plugin`. `logger` and `callback` take
    classes of the caller too: `callback=[MyCallback]`.

    Raises MtrlError (`mtrl.errors`): BadInput for a wrong setting, say. After Ctrl-C the run has saved a checkpoint,
    and KeyboardInterrupt is raised; after SIGTERM or SIGHUP, SystemExit. Torch's settings, signal handlers, warnings
    and environment variables of the caller are left as they were.
    """
    from mtrl.api import run

    choices = {
        "suite": suite,
        "agent": agent,
        "architecture": architecture,
        "policy": policy,
        "encoder": encoder,
        "aggregator": aggregator,
        "scheduler": scheduler,
        "normalizer": normalizer,
    }
    chosen = {name: choice for name, choice in choices.items() if choice is not None}
    return run.train(chosen | settings, config=config, run_dir=run_dir, overwrite=overwrite, plugins=plugins)


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
    """The environments of a suite as training has them: N slots that play its tasks, stepped together.

    `reset()` gives observations (N, *observation), `step(actions)` an `EnvStep`; `task_ids` (N,) are the tasks that the
    slots play, `spec` has tasks and spaces. num_envs: slots; None: one per task. num_workers: processes; 0: this one.
    mode: in "evaluate" an episode ends as in the protocol of evaluation. A context manager, or call `close`. Raises
    BadInput.
    """
    from mtrl.api import run

    return run.make_env(
        suite,
        num_envs=num_envs,
        seed=seed,
        num_workers=num_workers,
        mode=mode,
        worker_timeout=worker_timeout,
        plugins=plugins,
    )


def load(
    run_dir: str | PathLike[str],
    checkpoint: str = "latest",
    plugins: Plugins = (),
    weights: Weights = "averaged",
    policy_part: str | None = None,
) -> TrainedAgent:
    """A trained agent with `predict(observation, task)`, from a run or its directory.

    `checkpoint` is "latest", "best" or a step. `plugins` are modules to import, as with `--plugin`, or classes.
    `weights` are those of the policy: "averaged" over updates, or of the "last" one. `policy_part` is what to play of a
    policy that has parts: the "common" one of Distral. Raises BadInput.
    """
    from os import fspath

    from mtrl.api.configuration import plugin_modules
    from mtrl.training.load import load_agent

    return load_agent(fspath(run_dir), checkpoint, plugin_modules(plugins), weights, policy_part)


def load_metrics(run_dir: str | PathLike[str]) -> dict[str, np.ndarray]:
    """The metrics of a run as columns by name, ready for a DataFrame: see `mtrl.runs.columns`. Raises BadInput."""
    from os import fspath

    from mtrl.runs import columns

    return columns.load_metrics(fspath(run_dir))


def __getattr__(name: str) -> Any:
    if name == "Run":  # imported when it is asked for: the command line needs the version alone
        from mtrl.api.run import Run

        return Run
    raise AttributeError(f"module 'mtrl' has no attribute {name!r}")
