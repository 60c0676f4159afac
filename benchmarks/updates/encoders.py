"""Microseconds per frame stack of the Nature encoder, forward and backward, and page faults per call.

python -m benchmarks.updates.encoders [--repeats 3] [--rows 768] [--threads 2]

With freed memory kept by the process (`mtrl.optim.cpu`, as `mtrl` does) and handed back to the system, the C
library's own way. What is kept is a matter of the whole process, so each measurement has one of its own. They take
turns.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch

from benchmarks.repeats import Repeats
from mtrl.encoders import Nature
from mtrl.optim.cpu import keep_freed_memory

KEPT, HANDED_BACK = "kept", "handed back"
CALLS = 7


class Cost(NamedTuple):
    """Of one call on all rows."""

    microseconds: float  # per frame stack, median of the calls
    page_faults: float  # per call


def measure(repeats: int, rows: int, threads: int) -> dict[str, list[Cost]]:
    """One cost per repeat, by what happens to freed memory."""
    costs: dict[str, list[Cost]] = {KEPT: [], HANDED_BACK: []}
    for _ in range(repeats):
        for name, own in costs.items():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                own.append(process.submit(cost, name == KEPT, rows, threads).result())
    return costs


def cost(keep: bool, rows: int, threads: int) -> Cost:
    """Measures in this process, which remembers `keep` from then on."""
    if keep:
        keep_freed_memory()
    torch.set_num_threads(threads)
    encoder = Nature(gym.spaces.Box(0, 255, (4, 84, 84), np.uint8), Nature.Config())
    frames = torch.zeros(rows, 4, 84, 84, dtype=torch.uint8)

    def call() -> float:
        started = time.perf_counter()
        torch.autograd.grad(encoder(frames).square().mean(), list(encoder.parameters()))
        return time.perf_counter() - started

    for _ in range(2):
        call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = [call() for _ in range(CALLS)]
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return Cost(1e6 * statistics.median(seconds) / rows, faults / CALLS)


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=768, help="frame stacks per call; a PPO minibatch of 24 slots")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    arguments = parser.parse_args()
    found = measure(arguments.repeats, arguments.rows, arguments.threads)
    times = {name: Repeats(tuple(own.microseconds for own in costs)) for name, costs in found.items()}
    for name, costs in found.items():
        faults = statistics.median(own.page_faults for own in costs)
        print(f"freed memory {name:11} {times[name].shown(0)} us per stack, {faults:.0f} page faults per call")
    print(f"{HANDED_BACK} / {KEPT}: {times[HANDED_BACK].ratio_to(times[KEPT]).shown(2)}")


if __name__ == "__main__":
    main()
