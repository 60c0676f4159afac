"""Pictures of an Atari episode: the same game twice, once for the agent and once in colour.

Both emulators get the same seed and the same actions, so they show the same episode.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from envs.atari.emulation import Emulation
from envs.atari.pool import GamePool, emulator_seed
from mtrl.env.suite import RenderedEpisode
from mtrl.types import TaskSpec

MAX_PICTURES = 3_000
"""Of one episode, each of one env step; the rest of a longer one is played without any."""


def render_episode(
    task: TaskSpec, emulation: Emulation, variation: int, act: Callable[[np.ndarray], np.ndarray]
) -> RenderedEpisode:
    """Screens (210, 160, 3) uint8 of one episode played by `act`; a success is one that reached the target score."""
    seen, shown = GamePool(task.name, emulation), GamePool(task.name, emulation, pictures=True)
    observation = seen.begin(emulator_seed(variation))
    pictures = [shown.begin(emulator_seed(variation))[0]]
    score, ended = 0.0, False
    while not ended:
        action, films = np.array([act(observation)]), len(pictures) < MAX_PICTURES
        for pool in (seen, shown) if films else (seen,):
            pool.send(action)
        stacked, reward, terminated, truncated, _ = seen.recv()
        if films:
            pictures.append(shown.recv()[0][0, 0])
        observation = stacked[0]
        score += float(reward[0])
        ended = bool(terminated[0] or truncated[0])
    success = task.target_return is not None and score >= task.target_return
    return RenderedEpisode(pictures, score, success)
