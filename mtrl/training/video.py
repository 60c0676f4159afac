"""Writes episodes as animated pictures (GIF), which need no video encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtrl.agent import Agent
from mtrl.checkpoints.files import storage_faults
from mtrl.env.suite import Suite

MILLISECONDS_PER_FRAME = 60


def write_videos(agent: Agent, suite: Suite, folder: Path) -> list[Path]:
    """One episode of every task, on its first variation; returns the files written.

    Raises BadInput if the suite or this machine cannot render, StorageFailure.
    """
    written = []
    for task in suite.spec.tasks:

        def act(observation: np.ndarray, task_id: int = task.index) -> np.ndarray:
            return agent.act(observation[None], np.array([task_id]), explore=False).action[0]

        frames, success = suite.render_episode(task.index, 0, act)
        path = folder / f"{task.name}-{'success' if success else 'failure'}.gif"
        write_gif(frames, path)
        written.append(path)
    return written


def write_gif(frames: Sequence[np.ndarray], path: Path) -> None:
    """Frames (height, width, 3) uint8. Raises StorageFailure."""
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames]
    with storage_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=MILLISECONDS_PER_FRAME, loop=0)
