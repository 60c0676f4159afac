"""Multi-task reinforcement learning: the kernel that agents, suites and plug-ins are written against."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtrl.training.load import TrainedAgent

__version__ = "0.3.0"


def load(run_dir: str, checkpoint: str = "latest", plugins: tuple[str, ...] = ()) -> TrainedAgent:
    """A trained agent with `predict(observation, task)`, from a run directory.

    `plugins` are modules to import, as with `--plugin`. Raises BadInput.
    """
    from mtrl.training.load import load_agent

    return load_agent(run_dir, checkpoint, plugins)
