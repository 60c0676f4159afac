"""Settings of the emulator that a protocol fixes. No emulator needed."""

from __future__ import annotations

from dataclasses import dataclass

FRAME_SKIP = 4
"""Emulated frames per env step; an observation shows the maximum of the last two."""
FRAME_SIZE = 84
"""Pixels of a grey frame, square."""


@dataclass(frozen=True, kw_only=True)
class Emulation:
    """Settings of the emulator."""

    sticky_actions: float  # probability that a frame repeats the action of the one before
    noop_max: int  # an episode begins with 0 to noop_max - 1 frames of no-ops
    fire_at_reset: bool
    max_episode_frames: int
    frame_stack: int
