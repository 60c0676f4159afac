"""Spaces of one environment in terms of those of the suite.

Observations become float32 vectors, padded with zeros at the end, or uint8 images with channels first. Actions are the
first of the suite's discrete ones, or the first numbers of a vector in [-1, 1], scaled to the environment's bounds.
Shapes: D numbers of one environment's observation, A of its action, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from mtrl.faults import WrongResult

MIN_IMAGE_SIDE = 32
"""Pixels. Smaller arrays of bytes are read as numbers: they are rather codes of cells than pictures."""


class UnplayableSpace(Exception):
    """A space that no suite can have. The message goes on after the name of a task and says which wrapper helps."""


@dataclass(frozen=True)
class VectorObservation:
    """Anything that Gymnasium flattens to numbers: boxes, discrete ones (one-hot), and dicts and tuples of these."""

    space: gym.Space[Any]
    size: int  # D

    def encode(self, observation: Any, row: np.ndarray) -> None:
        """Writes an observation of the space to the first D numbers of `row`. Raises WrongResult for any other."""
        if isinstance(self.space, gym.spaces.Box):
            numbers = np.asarray(observation)
            if numbers.shape != self.space.shape:
                raise WrongResult(f"returned an observation of shape {numbers.shape}, expected {self.space.shape}")
        else:
            try:
                numbers = np.asarray(gym.spaces.flatten(self.space, observation))
            except Exception as error:  # each kind of space fails in its own way
                raise WrongResult(f"returned an observation that is not of {self.space}: {error}") from error
        row[: self.size] = numbers.reshape(-1)


@dataclass(frozen=True)
class ImageObservation:
    """Pixels: uint8 (H, W, C), (C, H, W) or (H, W)."""

    space: gym.spaces.Box
    shape: tuple[int, int, int]  # (C, H, W)
    channels_last: bool

    def encode(self, observation: Any, row: np.ndarray) -> None:
        """Writes the pixels to `row` (C, H, W). Raises WrongResult for an observation of another shape or dtype."""
        pixels = np.asarray(observation)
        if pixels.shape != self.space.shape or pixels.dtype != np.uint8:
            found, expected = f"{pixels.shape} {pixels.dtype}", f"{self.space.shape} uint8"
            raise WrongResult(f"returned an observation {found}, expected {expected}")
        row[...] = pixels.transpose(2, 0, 1) if self.channels_last else pixels.reshape(self.shape)


Observation = VectorObservation | ImageObservation


def observation_of(space: gym.Space[Any]) -> Observation:
    """How observations of `space` are written. Raises UnplayableSpace."""
    if isinstance(space, gym.spaces.Box) and space.dtype == np.uint8:
        sides = space.shape if len(space.shape) == 3 else (1, *space.shape)
        if len(sides) == 3 and sorted(sides)[1] >= MIN_IMAGE_SIDE:
            first, second, third = sides
            channels_last = third < first
            return ImageObservation(space, (third, first, second) if channels_last else sides, channels_last)
    size = _flat_size(space)
    if size is None:
        inner = space.spaces if isinstance(space, gym.spaces.Dict) else {}
        odd = [f"{key!r} {type(own).__name__}" for key, own in inner.items() if _flat_size(own) is None]
        detail = f" (with {', '.join(odd)})" if odd else ""
        raise UnplayableSpace(
            f"observations {type(space).__name__}{detail}, which are not all numbers; a wrapper that picks some would "
            "help, such as gymnasium.wrappers.FilterObservation: --suite.wrappers MODULE:FUNCTION"
        )
    return VectorObservation(space, size)


def _flat_size(space: gym.Space[Any]) -> int | None:
    """How many numbers Gymnasium flattens the space to; None if it cannot, or to nothing."""
    try:
        flat = gym.spaces.flatten_space(space)
    except NotImplementedError:
        return None
    return int(flat.shape[0]) or None if isinstance(flat, gym.spaces.Box) else None


@dataclass(frozen=True)
class DiscreteAction:
    """The first `size` of the suite's actions."""

    size: int
    start: int

    def decode(self, action: Any) -> int:
        """The environment's number of an action 0 to size - 1."""
        return self.start + int(action)


@dataclass(frozen=True)
class BoxAction:
    """The first `size` numbers of the suite's action, scaled from [-1, 1] to the bounds."""

    space: gym.spaces.Box
    size: int  # A

    def decode(self, action: np.ndarray) -> np.ndarray:
        """Action (at least A,) float32 -> the environment's shape and dtype, within its bounds."""
        unit = np.clip(action[: self.size], -1, 1).reshape(self.space.shape)
        low, high = self.space.low, self.space.high
        # The clip is for rounding: an environment may refuse what is one last bit beyond its bounds.
        return np.clip(low + (unit + 1) / 2 * (high - low), low, high).astype(self.space.dtype)


Action = DiscreteAction | BoxAction


def action_of(space: gym.Space[Any]) -> Action:
    """How actions of `space` are read. Raises UnplayableSpace."""
    if isinstance(space, gym.spaces.Discrete):
        return DiscreteAction(int(space.n), int(space.start))
    remedy = "a wrapper would help, such as gymnasium.wrappers.TransformAction: --suite.wrappers MODULE:FUNCTION"
    if not isinstance(space, gym.spaces.Box):
        raise UnplayableSpace(f"actions {space}, neither Discrete nor a Box; {remedy}")
    if space.dtype.kind != "f":
        raise UnplayableSpace(f"actions {space} of whole numbers; {remedy}")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise UnplayableSpace(f"actions {space} without finite bounds, to which [-1, 1] could be scaled; {remedy}")
    return BoxAction(space, int(np.prod(space.shape)))
