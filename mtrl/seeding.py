"""Named random streams: every use of randomness has a generator of its own, found by name.

A stream depends on (seed, purpose, indices) and on nothing else: adding a task, a slot or another stream leaves it
unchanged. No global generator (`random`, `numpy.random`, torch's default) is ever drawn from or seeded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

MAX_SEED = 2**64 - 1

_TORCH_STATE_BYTES = (5056, 16)  # of torch's generators on the processor and on a GPU


def _entropy(seed: int, purpose: str, indices: tuple[int, ...]) -> list[int]:
    """Fixed-width words, so that no two (seed, purpose, indices) spell the same sequence."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {seed} is outside [0, 2**64)")
    name = hashlib.sha256(purpose.encode()).digest()[:16]
    words = [seed & 0xFFFFFFFF, seed >> 32]
    words += [int.from_bytes(name[i : i + 4], "little") for i in range(0, 16, 4)]
    return [*words, len(indices), *indices]


def stream(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """The NumPy generator of (seed, purpose, indices), e.g. `stream(1, "episodes", slot)`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(_entropy(seed, purpose, indices))))


def torch_stream(seed: int, purpose: str, *indices: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The torch generator of (seed, purpose, indices) on `device`."""
    import torch

    words = np.random.SeedSequence(_entropy(seed, purpose, indices)).generate_state(2, np.uint32)
    generator = torch.Generator(device=device)
    generator.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
    return generator


def stream_state(generator: np.random.Generator) -> dict[str, Any]:
    """The generator's position as JSON (the 128-bit integers as decimal strings)."""
    state = generator.bit_generator.state
    return {
        "state": str(state["state"]["state"]),
        "inc": str(state["state"]["inc"]),
        "has_uint32": state["has_uint32"],
        "uinteger": state["uinteger"],
    }


def load_stream_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Puts `generator` at a position written by `stream_state`."""
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": int(state["state"]), "inc": int(state["inc"])},
        "has_uint32": state["has_uint32"],
        "uinteger": state["uinteger"],
    }


def load_torch_stream_state(generator: torch.Generator, state: torch.Tensor) -> None:
    """Puts `generator` where another one was, whose `get_state` this is.

    One that drew on another kind of device drew other numbers: then `generator` goes on with a stream that is seeded by
    where the other one stood. Raises ValueError for what is no generator's state.
    """
    import torch

    if not isinstance(state, torch.Tensor) or state.dtype != torch.uint8 or state.numel() not in _TORCH_STATE_BYTES:
        raise ValueError("not the state of a random generator")
    if state.shape == generator.get_state().shape:
        generator.set_state(state)
    else:
        generator.manual_seed(int.from_bytes(hashlib.sha256(state.numpy().tobytes()).digest()[:7], "little"))


@contextmanager
def seeded_construction(seed: int, purpose: str) -> Iterator[None]:
    """Initial weights come from a named stream: `torch.nn` draws from the global generator, which is put back."""
    import torch

    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds every GPU's generator too.
        torch.default_generator.manual_seed(torch_stream(seed, purpose).initial_seed())
        yield
