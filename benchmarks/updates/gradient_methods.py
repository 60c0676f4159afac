"""Milliseconds that gradient methods take to turn a Gramian into weights.

python -m benchmarks.updates.gradient_methods [--tasks 10 50]

Random gradients of 1000 parameters; norms differ by a factor of up to 100, half of the pairs conflict. Methods take
turns; what counts is the processor time of this thread, which other load on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping

import torch

from benchmarks.repeats import Repeats
from mtrl.aggregation import JacobianAggregator, PresentTasks, aggregators
from mtrl.seeding import torch_stream

NUM_PARAMETERS = 1000


def milliseconds(num_tasks: int, repeats: int) -> Mapping[str, Repeats]:
    """Of every method, for new gradients at every repeat."""
    generator = torch_stream(1, "gradients")
    methods = {
        name: cls(num_tasks, cls.Config(), generator)
        for name, cls in aggregators.items()
        if issubclass(cls, JacobianAggregator)
    }
    tasks = PresentTasks(torch.arange(num_tasks), torch.ones(num_tasks, dtype=torch.float64))
    times: dict[str, list[float]] = {name: [] for name in methods}
    for repeat in range(repeats + 1):
        jacobian = torch.randn(num_tasks, NUM_PARAMETERS, generator=generator, dtype=torch.float64)
        jacobian *= 10 ** (2 * torch.rand(num_tasks, 1, generator=generator, dtype=torch.float64) - 1)
        gramian = jacobian @ jacobian.T
        for name, method in methods.items():
            started = time.thread_time()
            method.task_weights(gramian, tasks)
            if repeat:  # the first warms up
                times[name].append(1e3 * (time.thread_time() - started))
    return {name: Repeats(tuple(values)) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for num_tasks in arguments.tasks:
        print(f"{num_tasks} tasks, ms: median (lowest to highest) of {arguments.repeats}")
        for name, found in milliseconds(num_tasks, arguments.repeats).items():
            print(f"  {name:12} {found.shown(2)}")


if __name__ == "__main__":
    main()
