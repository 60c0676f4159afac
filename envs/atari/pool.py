"""One game at a time on ale-py's native thread; imported where games are stepped (ale-py is GPL-2.0-only)."""

from __future__ import annotations

from typing import Any

import numpy as np
from ale_py.vector_env import AtariVectorEnv

from envs.atari.emulation import FRAME_SIZE, FRAME_SKIP, Emulation


class GamePool(AtariVectorEnv):
    """One environment of one game on a thread of its own.

    `send` returns at once, so that the games of several pools run side by side.
    """

    def __init__(self, game: str, emulation: Emulation, *, pictures: bool = False):
        """`pictures`: observations are the screen (1, 210, 160, 3) instead of stacked small grey frames."""
        # The base class writes into this dict, which otherwise is the one of all of gymnasium's vector environments.
        self.metadata: dict[str, Any] = {}
        shape: dict[str, Any] = {"img_height": FRAME_SIZE, "img_width": FRAME_SIZE, "stack_num": emulation.frame_stack}
        if pictures:
            shape = {"img_height": 210, "img_width": 160, "stack_num": 1, "grayscale": False}
        super().__init__(
            game,
            1,
            num_threads=1,
            max_num_frames_per_episode=emulation.max_episode_frames,
            repeat_action_probability=emulation.sticky_actions,
            full_action_space=True,
            frameskip=FRAME_SKIP,
            noop_max=emulation.noop_max,
            use_fire_reset=emulation.fire_at_reset,
            episodic_life=False,
            reward_clipping=False,
            # After the end of an episode nothing happens until `reset`.
            autoreset_mode="NextStep",
            **shape,
        )
        self.game = game
        self.seeded = False

    def begin(self, seed: int | None) -> np.ndarray:
        """Starts an episode and returns its first observation.

        With a seed the episode depends on it and on the actions alone, but the game is loaded anew, which takes 0.15
        to 0.3 s of computing; without one the game's random numbers go on, and it takes 0.01 s.
        """
        self.seeded = self.seeded or seed is not None
        observation, _ = self.reset(seed=seed)
        return observation[0]


def emulator_seed(variation: int) -> int:
    """The seed of a variation: ale-py takes those of 31 bits."""
    return variation % (2**31 - 1) + 1


class PoolStock:
    """Pools that no slot plays in now, the longest idle first; each takes a megabyte and a sleeping thread."""

    def __init__(self, games: tuple[str, ...], emulation: Emulation):
        self._games = games
        self.emulation = emulation
        self._idle: list[GamePool] = []

    def take(self, task: int) -> GamePool:
        """A pool of the task's game; made (in 0.15 to 0.3 s) if none is idle."""
        game = self._games[task]
        for position, pool in enumerate(self._idle):
            if pool.game == game:
                return self._idle.pop(position)
        return GamePool(game, self.emulation)

    def give_back(self, pool: GamePool) -> None:
        """Another slot may take it now. At most as many as there are games are kept."""
        self._idle.append(pool)
        if len(self._idle) > len(self._games):
            del self._idle[0]
