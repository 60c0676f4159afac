"""Milliseconds per SAC update at MT10 sizes: ours, stable-baselines3's, and the matrix-product floor, taking turns.

All in single precision but `ours, bfloat16`, which is `--precision bfloat16`. stable-baselines3 appears twice: with the
products that torch makes by itself, as its users have them, and with those of the library that ours chooses
(`mtrl.optim.matmul_backend`), which makes the others'.
Multi-head (theirs: one network that sees the one-hot task), 3 x 400, batch 1280, 10 tasks, observation 39, action 4,
the same fused Adam. One update is one gradient step of critics, actor and temperature and one of the target average,
the drawing of the batch from a filled buffer included.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3 import SAC as SB3SAC
from stable_baselines3.common.logger import Logger

import agents
import envs
from agents.sac import SAC
from benchmarks.machine import prepare_process
from benchmarks.repeats import Repeats, interleaved_milliseconds
from benchmarks.updates.matmul_floor import MatmulFloor, recorded_products
from envs.sb3 import make_sb3_env
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.config.schema import resolve_config
from mtrl.optim.matmul_backend import default_matmul_backend
from mtrl.seeding import stream
from mtrl.training.build import build_agent, build_suite
from mtrl.types import ActionStep, EnvStep, SuiteSpec

THEIRS, THEIRS_OUR_PRODUCTS = "stable-baselines3", "stable-baselines3, our products"

FILLED_STEPS = 2000
"""Vector steps in the buffers that batches are drawn from."""

MULTI_HEAD: dict[str, Any] = {"name": "multi-head", "width": 400, "depth": 3}


@dataclass(frozen=True, kw_only=True)
class UpdateSizes:
    """What every contestant updates on; the defaults are those of MT10."""

    suite: str = "mt10"
    batch_size: int = 1280
    num_critics: int = 2


@dataclass(frozen=True)
class LearningAgent:
    """One of our agents, with a full buffer to learn from."""

    agent: SAC
    buffer: RolloutBuffer
    sizes: UpdateSizes

    def update(self) -> None:
        """Draws a batch and makes one update."""
        shares = np.full(self.agent.num_tasks, 1 / self.agent.num_tasks)
        self.agent.learn(self.buffer.sample(self.sizes.batch_size, shares))


def learning_agent(architecture: Mapping[str, Any], sizes: UpdateSizes, **choices: Any) -> LearningAgent:
    """Our SAC with an architecture (its name and settings); `choices` are further parts of the configuration."""
    agents.register()
    envs.register()
    config = resolve_config(
        {
            "suite": sizes.suite,
            "architecture": dict(architecture),
            "agent": {"name": "sac", "batch_size": sizes.batch_size, "num_critics": sizes.num_critics},
            **choices,
        }
    )
    suite = build_suite(config.suite, config.settings.seed)
    agent = build_agent(config, suite, torch.device("cpu"))
    assert isinstance(agent, SAC)
    return LearningAgent(agent, filled_buffer(suite.spec), sizes)


@dataclass(frozen=True, kw_only=True)
class UpdateTimes:
    """What was measured."""

    milliseconds: Mapping[str, Repeats]  # per update, by contestant; "floor" is one of them
    floor_table: str  # the products one by one
    floor_gflop: float


def measure_updates(repeats: int = 5, updates_per_repeat: int = 8) -> UpdateTimes:
    """Milliseconds per update; the floor is that of ours with `mean`."""
    sizes = UpdateSizes()
    ours = learning_agent(MULTI_HEAD, sizes)
    floor = MatmulFloor(recorded_products(ours.update))
    theirs = _sb3_update(ours.agent.spec, sizes)
    milliseconds = interleaved_milliseconds(
        {
            "ours, mean": ours.update,
            "ours, pcgrad": learning_agent(MULTI_HEAD, sizes, aggregator="pcgrad").update,
            "ours, popart": learning_agent(MULTI_HEAD, sizes, normalizer="popart").update,
            "ours, bfloat16": learning_agent(MULTI_HEAD, sizes, precision="bfloat16").update,
            THEIRS: default_matmul_backend()(theirs),
            THEIRS_OUR_PRODUCTS: theirs,
            "floor": floor.replay,
        },
        repeats,
        updates_per_repeat,
    )
    return UpdateTimes(milliseconds=milliseconds, floor_table=floor.table(), floor_gflop=floor.gflop)


def filled_buffer(spec: SuiteSpec, capacity: int = FILLED_STEPS, seed: int = 0) -> RolloutBuffer:
    """A full buffer of random transitions, one slot per task, episodes as long as the suite's."""
    buffer = RolloutBuffer(spec, spec.num_tasks, capacity, seed)
    generator = stream(seed, "benchmark buffer")
    slots = spec.num_tasks
    observations, actions = (slots, *spec.observation_space.shape), (slots, *(spec.action_space.shape or ()))
    observation = generator.standard_normal(observations, np.float32)
    for row in range(capacity):
        following = generator.standard_normal(observations, np.float32)
        step = EnvStep(
            task_ids=np.arange(slots),
            observation=following,
            reward=generator.standard_normal(slots, np.float32),
            terminated=np.zeros(slots, bool),
            truncated=np.full(slots, (row + 1) % spec.max_episode_steps == 0),
            final_observation=following,
            episodes=(),
        )
        action = generator.uniform(-1, 1, actions).astype(np.float32)
        buffer.add(observation, ActionStep(action), step)
        observation = following
    return buffer


def _sb3_update(spec: SuiteSpec, sizes: UpdateSizes) -> Callable[[], object]:
    num_tasks, num_features = spec.num_tasks, spec.observation_space.shape[0]
    environments = make_sb3_env(sizes.suite)  # gives the spaces; never stepped, so no simulator starts
    model = SB3SAC(
        "MlpPolicy",
        environments,
        batch_size=sizes.batch_size,
        buffer_size=FILLED_STEPS * num_tasks,
        learning_rate=3e-4,
        policy_kwargs={
            "net_arch": MULTI_HEAD["depth"] * [MULTI_HEAD["width"]],
            "n_critics": sizes.num_critics,
            "optimizer_class": torch.optim.Adam,
            "optimizer_kwargs": {"eps": 1e-5, "fused": True},
        },
        seed=0,
        device="cpu",
    )
    model.set_logger(Logger(None, []))
    generator = stream(0, "benchmark buffer")
    tasks = np.eye(num_tasks, dtype=np.float32)
    nothing = num_tasks * [dict[str, bool]()]
    for _ in range(FILLED_STEPS):
        observation, following = (
            np.concatenate([generator.standard_normal((num_tasks, num_features), np.float32), tasks], axis=1)
            for _ in range(2)
        )
        model.replay_buffer.add(
            observation,
            following,
            generator.uniform(-1, 1, (num_tasks, *(spec.action_space.shape or ()))).astype(np.float32),
            generator.standard_normal(num_tasks, np.float32),
            np.zeros(num_tasks, bool),
            nothing,
        )
    return lambda: model.train(gradient_steps=1, batch_size=sizes.batch_size)


def report(times: UpdateTimes) -> str:
    """The table of products, milliseconds, and the ratios that matter."""
    milliseconds = times.milliseconds
    mean, pcgrad, floor = (milliseconds[name] for name in ("ours, mean", "ours, pcgrad", "floor"))
    lines = [times.floor_table, ""]
    lines += [f"{name:31} {repeats.shown(1)} ms per update" for name, repeats in milliseconds.items()]
    lines += [
        f"ours, mean / floor: {mean.ratio_to(floor).shown(3)}  ({times.floor_gflop:.2f} GFLOP)",
        *(
            f"ours, mean / {name}: {mean.ratio_to(milliseconds[name]).shown(3)}"
            for name in (THEIRS, THEIRS_OUR_PRODUCTS)
        ),
        f"ours, pcgrad / ours, mean: {pcgrad.ratio_to(mean).shown(3)}",
        f"ours, popart / ours, mean (no normaliser): {milliseconds['ours, popart'].ratio_to(mean).shown(3)}",
        f"ours, bfloat16 / ours, mean: {milliseconds['ours, bfloat16'].ratio_to(mean).shown(3)}",
    ]
    return "\n".join(lines)


def main() -> None:
    """Prints the times and ratios."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--updates", type=int, default=8, help="per repeat")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    arguments = parser.parse_args()
    prepare_process(arguments.threads)
    print(report(measure_updates(arguments.repeats, arguments.updates)))


if __name__ == "__main__":
    main()
