"""Env steps per second of our Meta-World against others', side by side in one run.

All step the same tasks with the same random actions. A round is 500 vector steps, so each environment is reset once in
it; the rounds take turns, because other load on the machine comes and goes. Beside other vector environments stand

- the same pool with the official classes untouched: what the fast versions of their methods are worth;
- physics only: the same pool, processes and tasks, where a step is nothing but action, substeps and one forward pass;
- a bare loop over our environments in this process: no pool can be faster than the number of cores times that.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from benchmarks.stepping.slots import PhysicsFactory, UntouchedFactory
from envs.metaworld.factory import MetaWorldFactory
from envs.metaworld.suite import HORIZON, MetaWorld
from envs.metaworld.tasks import STEP_COSTS
from envs.workers.pool import WorkerPool
from mtrl.env.episodes import RandomEpisodes
from mtrl.optim.cpu import available_cores

OURS = "ours"


@dataclass(frozen=True, kw_only=True)
class SteppingRow:
    """What was measured of one way to step a suite."""

    name: str
    setup_seconds: float  # from construction to the first observations; simulator imported before
    env_steps_per_second: tuple[float, ...]  # of every round

    @property
    def median(self) -> float:
        """Env steps per second."""
        return statistics.median(self.env_steps_per_second)


@dataclass(frozen=True)
class Contestant:
    """One way to step a suite, ready to step."""

    name: str
    setup_seconds: float
    step: Callable[[np.ndarray], object]
    close: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Course:
    """What all contestants of a run step."""

    suite: MetaWorld
    num_slots: int
    num_workers: int
    seed: int


Maker = Callable[[Course], Contestant]


def measure_stepping(
    suite: str = "mt10",
    *,
    rounds: int = 5,
    makers: Sequence[Maker] | None = None,
    num_slots: int | None = None,
    num_workers: int | None = None,
    vector_steps: int = HORIZON,
    seed: int = 1,
) -> list[SteppingRow]:
    """One row per contestant, ours first. Slots default to the tasks, the pool's workers to the cores.

    Goals are cached before the clock starts; gymnasium's set-up draws its goals each time.
    """
    import metaworld  # noqa: F401  registers the vector environments, and is imported before any clock starts

    played = MetaWorld(suite, MetaWorld.Config(), seed)
    slots = num_slots or played.spec.num_tasks
    _import_simulator_in_the_server(played)
    course = Course(suite=played, num_slots=slots, num_workers=num_workers or available_cores(), seed=seed)
    contestants = [make(course) for make in makers or all_contestants()]
    actions = np.random.default_rng(seed).uniform(-1, 1, (vector_steps, slots, 4)).astype(np.float32)
    speeds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    try:
        for _ in range(rounds):
            for contestant in contestants:
                started = time.perf_counter()
                for action in actions:
                    contestant.step(action)
                speeds[contestant.name].append(vector_steps * slots / (time.perf_counter() - started))
    finally:
        for contestant in contestants:
            contestant.close()
    return [
        SteppingRow(
            name=contestant.name,
            setup_seconds=contestant.setup_seconds,
            env_steps_per_second=tuple(speeds[contestant.name]),
        )
        for contestant in contestants
    ]


def _import_simulator_in_the_server(suite: MetaWorld) -> None:
    """The first worker of a program waits for the server's imports, which no contestant's set-up shall count."""
    episodes = RandomEpisodes(suite.spec, 1, 0)
    with suite.make_envs(1, episodes, mode="train", num_workers=1, worker_timeout=60.0) as envs:
        envs.reset()


def all_contestants() -> list[Maker]:
    """EnvPool takes part where it is installed."""
    envpool = [our_envpool] if importlib.util.find_spec("envpool") else []
    return [our_pool, untouched_pool, physics_pool, *envpool, gymnasium_async, gymnasium_sync, bare_loop]


def our_pool(course: Course) -> Contestant:
    return _pool(OURS, MetaWorldFactory, course)


def untouched_pool(course: Course) -> Contestant:
    return _pool("ours, classes untouched", UntouchedFactory, course)


def physics_pool(course: Course) -> Contestant:
    return _pool("physics only", PhysicsFactory, course)


def _pool(name: str, factory: type[MetaWorldFactory], course: Course) -> Contestant:
    started = time.perf_counter()
    spec = course.suite.spec
    envs = WorkerPool(
        spec,
        course.num_slots,
        RandomEpisodes(spec, course.num_slots, course.seed),
        factory(task_names=spec.task_names, goals=course.suite.goals, reward_function="v2", end_at_success=False),
        num_workers=course.num_workers,
        step_costs=[STEP_COSTS[task] for task in spec.task_names],
    )
    envs.reset()
    return Contestant(name, time.perf_counter() - started, envs.step, envs.close)


def our_envpool(course: Course) -> Contestant:
    """Our suite on EnvPool's environments, another task distribution."""
    started = time.perf_counter()
    suite = MetaWorld(course.suite.spec.name, MetaWorld.Config(env_backend="envpool"), course.seed)
    envs = suite.make_envs(
        course.num_slots,
        RandomEpisodes(suite.spec, course.num_slots, course.seed),
        mode="train",
        num_workers=course.num_workers,
        worker_timeout=60.0,
    )
    envs.reset()
    return Contestant("envpool", time.perf_counter() - started, envs.step, envs.close)


def gymnasium_async(course: Course) -> Contestant:
    return _gymnasium("async", course)


def gymnasium_sync(course: Course) -> Contestant:
    return _gymnasium("sync", course)


def _gymnasium(strategy: str, course: Course) -> Contestant:
    started = time.perf_counter()
    envs = gym.make_vec(f"Meta-World/{course.suite.spec.name.upper()}", vector_strategy=strategy, seed=course.seed)
    envs.reset()
    name = f"gymnasium {strategy.capitalize()}VectorEnv"
    return Contestant(name, time.perf_counter() - started, envs.step, envs.close)


def bare_loop(course: Course) -> Contestant:
    started = time.perf_counter()
    spec = course.suite.spec
    make_slot = MetaWorldFactory(
        task_names=spec.task_names, goals=course.suite.goals, reward_function="v2", end_at_success=False
    )
    slots = [make_slot() for _ in range(course.num_slots)]
    for index, slot in enumerate(slots):
        slot.begin(index % spec.num_tasks, 0)

    def step(action: np.ndarray) -> None:
        for index, slot in enumerate(slots):
            if slot.step(action[index]).truncated:
                slot.begin(index % spec.num_tasks, 0)

    return Contestant("bare loop, one process", time.perf_counter() - started, step, lambda: None)


def measure_scaling(rounds: int) -> list[tuple[int, int, SteppingRow]]:
    """Workers, slots and the row of our pool on MT10: from one worker to all cores, and from 10 to 200 slots.

    Each setting is measured by itself; a vector step of more slots is fewer vector steps.
    """
    cores = available_cores()
    workers = sorted({1, 2, *(2**power for power in range(cores.bit_length()) if 2**power <= cores), cores})
    settings = [(count, 10) for count in workers if count <= cores]
    settings += [(cores, slots) for slots in (20, 50, 100, 200)]
    rows = []
    for count, slots in settings:
        steps = HORIZON * 10 // slots
        measured = measure_stepping(
            rounds=rounds, makers=[our_pool], num_slots=slots, num_workers=count, vector_steps=steps
        )
        rows.append((count, slots, measured[0]))
    return rows
