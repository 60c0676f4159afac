"""Multi-task reinforcement learning: the kernel that agents, suites and plug-ins are written against."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from mtrl.training.load import TrainedAgent
    from mtrl.types import Weights

__version__ = "0.3.0"


def load(
    run_dir: str,
    checkpoint: str = "latest",
    plugins: tuple[str, ...] = (),
    weights: Weights = "averaged",
    policy_part: str | None = None,
) -> TrainedAgent:
    """A trained agent with `predict(observation, task)`, from a run directory.

    `checkpoint` is "latest", "best" or a step. `plugins` are modules to import, as with `--plugin`. `weights` are those
    of the policy: "averaged" over updates, or of the "last" one. `policy_part` is what to play of a policy that has
    parts: the "common" one of Distral. Raises BadInput.
    """
    from mtrl.training.load import load_agent

    return load_agent(run_dir, checkpoint, plugins, weights, policy_part)


def load_metrics(run_dir: str) -> dict[str, np.ndarray]:
    """The metrics of a run as columns by name, ready for a DataFrame: see `mtrl.runs.columns`. Raises BadInput."""
    from mtrl.runs import columns

    return columns.load_metrics(run_dir)
