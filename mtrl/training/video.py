"""Writes episodes as animated pictures (GIF), which need no video encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtrl.agent import Agent
from mtrl.checkpoints.files import storage_faults
from mtrl.env.suite import Suite
from mtrl.training.protocol_policy import ActionRule, protocol_policy

MILLISECONDS_PER_FRAME = 60


def write_videos(agent: Agent, suite: Suite, seed: int, folder: Path) -> list[Path]:
    """One episode of every task, on its first variation, by the evaluated policy; returns the files written.

    Raises BadInput if the suite or this machine cannot render, StorageFailure.
    """
    written = []
    for task in suite.spec.tasks:
        policy, task_ids = protocol_policy(agent, suite.spec, seed), np.array([task.index])

        def act(observation: np.ndarray, policy: ActionRule = policy, task_ids: np.ndarray = task_ids) -> np.ndarray:
            return policy(observation[None], task_ids)[0]

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
