"""The screen as the only observation; imported where the game is played."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from envs.vizdoom.scenarios import FRAMES, SIZE


class Screens(gym.Wrapper[np.ndarray, Any, Any, Any]):
    """The last screens of a ViZDoom environment (3 FRAMES, SIZE, SIZE) uint8, oldest first, zeros before an episode."""

    def __init__(self, env: gym.Env[Any, Any]):
        super().__init__(env)
        self.observation_space = gym.spaces.Box(0, 255, (3 * FRAMES, SIZE, SIZE), np.uint8)
        self._screens = np.zeros(self.observation_space.shape, np.uint8)

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(**arguments)
        self._screens[...] = 0
        return self._with(observation["screen"]), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        # ViZDoom says `terminated` at a time limit too, and gives black screens at the end of every episode: values
        # after a time limit are those of the last screen that there was.
        screen = observation["screen"] if observation["screen"].any() else None
        return self._with(screen), reward, terminated and not truncated, truncated, info

    def _with(self, screen: np.ndarray | None) -> np.ndarray:
        """The observation with one more screen (H, W, 3); None: the last one again."""
        newest = self._screens[-3:].copy()
        if screen is not None:
            small = Image.fromarray(screen).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            newest = np.asarray(small).transpose(2, 0, 1)
        self._screens[:-3] = self._screens[3:].copy()
        self._screens[-3:] = newest
        return self._screens.copy()
