"""Milliseconds per SAC update at MT10 sizes, by one process and shared out over the ranks of a data-parallel run.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m benchmarks.updates.data_parallel

Multi-head, 3 x 400, batch 1280, as in `benchmarks.updates.sac`. In a turn rank 0 first updates an agent of its own on
whole batches while the others wait, and then all ranks update another one together. Processor time is that of rank 0
alone: what an update takes where every rank has a core to itself, but for the time of the messages.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.machine import prepare_process
from benchmarks.repeats import Repeats
from benchmarks.updates.sac import MULTI_HEAD, UpdateSizes, learning_agent
from mtrl.data_parallel.learning import learning
from mtrl.data_parallel.ranks import WORLD, joined, largest


class SharedUpdateTimes(NamedTuple):
    """What rank 0 measured: milliseconds per update."""

    alone: Repeats
    shared: Repeats
    alone_processor: Repeats
    shared_processor: Repeats


def measure_shared_updates(sizes: UpdateSizes, repeats: int, updates_per_repeat: int) -> SharedUpdateTimes:
    """To be called on all ranks. A repeat is the median of its turns."""
    own, common = (learning_agent(MULTI_HEAD, sizes).update for _ in range(2))

    def alone() -> None:
        if WORLD.rank == 0:
            own()

    def shared() -> None:
        with learning():
            common()

    medians: list[list[float]] = [[], [], [], []]
    for repeat in range(repeats + 1):
        turns = [_timed(update) for _ in range(updates_per_repeat) for update in (alone, shared)]
        columns = [[turn[clock] for turn in turns[first::2]] for clock in (0, 1) for first in (0, 1)]
        for own_medians, values in zip(medians, columns, strict=True):
            if repeat:  # the first one allocates
                own_medians.append(statistics.median(values))
    return SharedUpdateTimes(*(Repeats(tuple(values)) for values in medians))


def _timed(update: Callable[[], None]) -> tuple[float, float]:
    """Wall-clock and processor time in milliseconds, from when all ranks are there."""
    largest(0)
    started, processor = time.perf_counter(), time.process_time()
    update()
    return 1e3 * (time.perf_counter() - started), 1e3 * (time.process_time() - processor)


def report(times: SharedUpdateTimes, ranks: int) -> str:
    """Times, and the ratios of the shared update to that of one process."""
    return "\n".join(
        [
            f"one process  {times.alone.shown(1)} ms, of the processor {times.alone_processor.shown(1)} ms",
            f"{ranks} ranks      {times.shared.shown(1)} ms, of the processor {times.shared_processor.shown(1)} ms",
            f"ratio        {times.shared.ratio_to(times.alone).shown(3)}, "
            f"of the processor {times.shared_processor.ratio_to(times.alone_processor).shown(3)}",
        ]
    )


def main() -> None:
    """Prints times and ratios."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--updates", type=int, default=10, help="per repeat")
    arguments = parser.parse_args()
    prepare_process(torch_threads=1)
    with joined():
        times = measure_shared_updates(UpdateSizes(), arguments.repeats, arguments.updates)
        if WORLD.rank == 0:
            print(report(times, WORLD.size))


if __name__ == "__main__":
    main()
