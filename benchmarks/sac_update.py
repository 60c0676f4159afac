"""Milliseconds per SAC update at MT10 sizes: ours, stable-baselines3's, and the matrix-product floor, taking turns.

Multi-head (theirs: one network that sees the one-hot task), 3 x 400, batch 1280, 10 tasks, observation 39, action 4,
the same fused Adam. One update is one gradient step of critics, actor and temperature and one of the target average,
the drawing of the batch from a filled buffer included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from stable_baselines3 import SAC as SB3SAC
from stable_baselines3.common.logger import Logger

import agents
import envs
from agents.sac import SAC
from benchmarks.matmul_floor import MatmulFloor, UpdateSizes
from benchmarks.repeats import Repeats
from envs.sb3 import make_sb3_env
from mtrl.buffer import RolloutBuffer
from mtrl.build import build_agent, build_world
from mtrl.config import resolve_config
from mtrl.seeding import stream
from mtrl.types import Acted, EnvStep, TaskSuite

FILLED_STEPS = 2000
"""Vector steps in the buffers that batches are drawn from."""


@dataclass(frozen=True, kw_only=True)
class UpdateTimes:
    """What was measured."""

    milliseconds: Mapping[str, Repeats]  # per update, by contestant; "floor" is one of them
    floor_table: str  # the products one by one
    floor_gflop: float


def measure_updates(repeats: int = 5, updates_per_repeat: int = 8) -> UpdateTimes:
    """Every repeat is the median of `updates_per_repeat` turns; in a turn every contestant makes one update."""
    agents.register()
    envs.register()
    sizes = UpdateSizes()
    floor = MatmulFloor(sizes)
    passes: list[list[float]] = []
    contestants: dict[str, Callable[[], object]] = {
        "ours, mean": _our_update("mean", sizes),
        "ours, pcgrad": _our_update("pcgrad", sizes),
        "ours, popart": _our_update("mean", sizes, normalizer="popart"),
        "stable-baselines3": _sb3_update(sizes),
        "floor": lambda: passes.append(floor.measure()),
    }
    for update in contestants.values():  # allocates, and starts the threads
        update()
        update()
    passes.clear()
    repeated: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        turns: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(updates_per_repeat):
            for name, update in contestants.items():
                started = time.perf_counter()
                update()
                turns[name].append(1e3 * (time.perf_counter() - started))
            turns["floor"][-1] = 1e3 * sum(passes[-1])
        for name, milliseconds in turns.items():
            repeated[name].append(statistics.median(milliseconds))
    return UpdateTimes(
        milliseconds={name: Repeats(tuple(values)) for name, values in repeated.items()},
        floor_table=floor.table(passes),
        floor_gflop=sum(product.flops for product in floor.products) / 1e9,
    )


def _our_update(aggregator: str, sizes: UpdateSizes, normalizer: str = "none") -> Callable[[], object]:
    config = resolve_config(
        {
            "suite": "mt10",
            "architecture": {"name": "multi-head", "width": sizes.width, "depth": sizes.depth},
            "aggregator": aggregator,
            "normalizer": normalizer,
            "agent": {"name": "sac", "batch_size": sizes.batch_size, "num_critics": sizes.num_critics},
        }
    )
    world = build_world(config.suite, config.settings.seed)
    agent = build_agent(config, world, torch.device("cpu"))
    assert isinstance(agent, SAC)
    buffer = filled_buffer(world.suite)
    shares = np.full(sizes.num_tasks, 1 / sizes.num_tasks)
    return lambda: agent.learn_from(buffer.sample(sizes.batch_size, shares))


def filled_buffer(suite: TaskSuite, capacity: int = FILLED_STEPS, seed: int = 0) -> RolloutBuffer:
    """A full buffer of random transitions, one slot per task, episodes as long as the suite's."""
    buffer = RolloutBuffer(suite, suite.num_tasks, capacity, seed)
    generator = stream(seed, "benchmark buffer")
    slots = suite.num_tasks
    observations, actions = (slots, *suite.observation_space.shape), (slots, *(suite.action_space.shape or ()))
    observation = generator.standard_normal(observations, np.float32)
    for row in range(capacity):
        following = generator.standard_normal(observations, np.float32)
        step = EnvStep(
            task_ids=np.arange(slots),
            observation=following,
            reward=generator.standard_normal(slots, np.float32),
            terminated=np.zeros(slots, bool),
            truncated=np.full(slots, (row + 1) % suite.max_episode_steps == 0),
            final_observation=following,
            episodes=(),
        )
        action = generator.uniform(-1, 1, actions).astype(np.float32)
        buffer.add(observation, Acted(action), step)
        observation = following
    return buffer


def _sb3_update(sizes: UpdateSizes) -> Callable[[], object]:
    environments = make_sb3_env("mt10")  # gives the spaces; never stepped, so no simulator starts
    model = SB3SAC(
        "MlpPolicy",
        environments,
        batch_size=sizes.batch_size,
        buffer_size=FILLED_STEPS * sizes.num_tasks,
        learning_rate=3e-4,
        policy_kwargs={
            "net_arch": sizes.depth * [sizes.width],
            "n_critics": sizes.num_critics,
            "optimizer_class": torch.optim.Adam,
            "optimizer_kwargs": {"eps": 1e-5, "fused": True},
        },
        seed=0,
        device="cpu",
    )
    model.set_logger(Logger(None, []))
    generator = stream(0, "benchmark buffer")
    tasks = np.eye(sizes.num_tasks, dtype=np.float32)
    nothing = sizes.num_tasks * [dict[str, bool]()]
    for _ in range(FILLED_STEPS):
        observation, following = (
            np.concatenate([generator.standard_normal((sizes.num_tasks, sizes.features), np.float32), tasks], axis=1)
            for _ in range(2)
        )
        model.replay_buffer.add(
            observation,
            following,
            generator.uniform(-1, 1, (sizes.num_tasks, sizes.actions)).astype(np.float32),
            generator.standard_normal(sizes.num_tasks, np.float32),
            np.zeros(sizes.num_tasks, bool),
            nothing,
        )
    return lambda: model.train(gradient_steps=1, batch_size=sizes.batch_size)


def report(times: UpdateTimes) -> str:
    """The table of products, milliseconds, and the ratios that matter."""
    milliseconds = times.milliseconds
    mean, pcgrad, floor = (milliseconds[name] for name in ("ours, mean", "ours, pcgrad", "floor"))
    lines = [times.floor_table, ""]
    lines += [f"{name:18} {repeats.shown(1)} ms per update" for name, repeats in milliseconds.items()]
    lines += [
        f"ours, mean / floor: {mean.ratio_to(floor).shown(3)}  ({times.floor_gflop:.2f} GFLOP)",
        f"ours, mean / stable-baselines3: {mean.ratio_to(milliseconds['stable-baselines3']).shown(3)}",
        f"ours, pcgrad / ours, mean: {pcgrad.ratio_to(mean).shown(3)}",
        f"ours, popart / ours, mean (no normaliser): {milliseconds['ours, popart'].ratio_to(mean).shown(3)}",
    ]
    return "\n".join(lines)


def main() -> None:
    """Prints the times and ratios."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--updates", type=int, default=8, help="per repeat")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(report(measure_updates(arguments.repeats, arguments.updates)))


if __name__ == "__main__":
    main()
