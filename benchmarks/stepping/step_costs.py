"""Cost of an env step of each Meta-World task, relative to the others: the source of `envs/metaworld/tasks.py`.

Random actions on one core, without a pool. `python -m benchmarks.stepping.step_costs` prints the table.
"""

from __future__ import annotations

import time

import numpy as np

from envs.metaworld.factory import MetaWorldFactory
from envs.metaworld.suite import MetaWorld


def measure_step_costs(name: str = "mt50", rounds: int = 16, steps: int = 25, seed: int = 1) -> dict[str, float]:
    """Time of an env step of each task, the mean task's being 1: the median over `rounds` of `steps` env steps.

    The tasks take turns and each round is scaled by itself, because other load on the machine comes and goes.
    """
    suite = MetaWorld(name, MetaWorld.Config(), seed)
    make_slot = MetaWorldFactory(
        task_names=suite.spec.task_names, goals=suite.goals, reward_function="v2", end_at_success=False
    )
    slots = [make_slot() for _ in suite.spec.tasks]
    rng = np.random.default_rng(seed)
    for task, slot in enumerate(slots):
        slot.begin(task, 0)
    seconds = np.zeros((rounds, len(slots)))
    for row in seconds:
        for task, slot in enumerate(slots):
            actions = rng.uniform(-1, 1, (steps, 4)).astype(np.float32)
            started = time.perf_counter()
            for action in actions:
                slot.step(action)
            row[task] = time.perf_counter() - started
    relative = np.median(seconds / np.median(seconds, axis=1, keepdims=True), axis=0)
    return dict(zip(suite.spec.task_names, (relative / relative.mean()).tolist(), strict=True))


def main() -> None:
    """Prints the table as Python."""
    for task, cost in measure_step_costs().items():
        print(f'    "{task}": {cost:.1f},')


if __name__ == "__main__":
    main()
