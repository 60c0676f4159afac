"""What auxiliary tasks cost and what they save: PPO's update on pixels, and the env steps until the tasks are learnt.

python -m benchmarks.updates.auxiliary updates [--only NAMES] [--repeats 5] [--turns 4] [--rows 256] [--processor-time]
python -m benchmarks.updates.auxiliary learning [--only NAMES] [--seeds 1 2 3 4 5] [--max-env-steps 100000]

updates: milliseconds of PPO's four epochs over a minibatch of Atari-sized pixels (four tasks, 4 x 84 x 84, 18 actions,
the encoder `nature`, multi-head) with each auxiliary task, against the same without one. Contestants take turns.

learning: env steps on `point-mass-pixels` until 0.95 of the last 200 training episodes succeed, per seed. `none` is
without an auxiliary task. Both print JSON lines.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import agents
import envs
from agents.ppo import PPO
from benchmarks.machine import machine_facts, prepare_process
from benchmarks.repeats import interleaved_milliseconds
from mtrl.auxiliary import auxiliary_tasks
from mtrl.config.schema import resolve_config
from mtrl.encoders import Nature
from mtrl.networks.hard_sharing.multi_head import MultiHead
from mtrl.testing.small_runs import make_agent
from mtrl.training.build import Chosen, build_agent, build_suite, build_train_state
from mtrl.training.run import training_loop
from mtrl.types import Batch, SuiteSpec, TaskSpec

BASELINE = "none"
LEARNT = 0.95
WINDOW = 200
"""Share of successes, over so many training episodes, at which the tasks count as learnt."""
SETTINGS: Mapping[str, Any] = {
    "suite": "point-mass-pixels",
    "agent": {
        "name": "ppo",
        "rollout_steps": 20,
        "epochs": 4,
        "minibatches": 2,
        "learning_rate": 1e-3,
        "discount": 0.9,
    },
    "encoder": {"name": "nature", "features": 64},
    "architecture": {"name": "multi-head", "width": 64, "depth": 1},
    "num_envs": 32,
    "num_workers": 0,
}


def steps_until_learnt(name: str, seed: int, max_env_steps: int) -> int | None:
    """Env steps until the tasks are learnt with the auxiliary task `name`, or None within `max_env_steps`."""
    auxiliary = [] if name == BASELINE else name.split("+")
    config = resolve_config(SETTINGS, {"auxiliary": auxiliary, "seed": seed, "total_env_steps": max_env_steps})
    suite = build_suite(config.suite, seed)
    state = build_train_state(config, suite, build_agent(config, suite, torch.device("cpu")))
    recent: deque[bool] = deque(maxlen=WINDOW)
    for progress in training_loop(state, max_env_steps):
        recent.extend(episode.success for episode in progress.episodes)
        if len(recent) == WINDOW and np.mean(recent) >= LEARNT:
            return progress.env_steps
    return None


def pixel_spec() -> SuiteSpec:
    """Four tasks with observations and actions of Atari's size."""
    return SuiteSpec(
        name="pixels",
        tasks=tuple(TaskSpec(name=f"task-{index}", index=index, max_episode_steps=1000) for index in range(4)),
        observation_space=gym.spaces.Box(0, 255, (4, 84, 84), np.uint8),
        action_space=gym.spaces.Discrete(18),
        frame_stack=4,
        protocol="pixels",
    )


def pixel_batch(rows: int) -> Batch:
    """Random samples as PPO learns from them, in equal shares."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (rows, 5, 84, 84), generator=generator, dtype=torch.uint8)
    numbers = torch.randn(rows, 4, generator=generator)
    return Batch(
        task_ids=torch.arange(4).repeat_interleave(rows // 4),
        observation=frames[:, :4],
        action=torch.randint(0, 18, (rows,), generator=generator),
        reward=(numbers[:, 0] > 1).float(),
        terminated=torch.zeros(rows, dtype=torch.bool),
        truncated=torch.zeros(rows, dtype=torch.bool),
        next_observation=frames[:, 1:],
        shares=torch.full((4,), 0.25),
        counts=(rows // 4,) * 4,
        extras={
            "log_prob": torch.full((rows,), -float(np.log(18))),
            "value": numbers[:, 1],
            "advantage": numbers[:, 2],
            "return": numbers[:, 3],
        },
    )


def updates_of(names: Sequence[str], rows: int) -> dict[str, Callable[[], object]]:
    """An update of PPO from a rollout of one minibatch with each auxiliary task."""
    batch = pixel_batch(rows)
    steps: dict[str, Callable[[], object]] = {}
    for name in names:
        own = [] if name == BASELINE else [auxiliary_tasks.get(name)]
        agent = make_agent(
            PPO,
            PPO.Config(),
            pixel_spec(),
            encoder=Nature,
            architecture=MultiHead,
            architecture_config=MultiHead.Config(width=256, depth=1),
            auxiliary=[Chosen(task, task.Config()) for task in own],
        )

        def update(agent: PPO = agent) -> None:
            rollout = agent.group.on_rollout(batch)
            for _ in range(agent.config.epochs):
                agent.learn(rollout)

        steps[name] = update
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("updates", "learning"))
    parser.add_argument("--only", nargs="+", help="auxiliary tasks, `none`, or several joined by +")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--max-env-steps", type=int, default=100_000)
    given = parser.parse_args()
    agents.register()
    envs.register()
    prepare_process(1)
    print(json.dumps({"machine": machine_facts()}), flush=True)
    if given.what == "updates":
        names = given.only or [BASELINE, *auxiliary_tasks.names()]
        clock = time.process_time if given.processor_time else time.perf_counter
        times = interleaved_milliseconds(updates_of(names, given.rows), given.repeats, given.turns, clock)
        for name, own in times.items():
            ratio = own.ratio_to(times[BASELINE]) if BASELINE in times else own
            print(json.dumps({"auxiliary": name, "milliseconds": own.json(), "ratio": ratio.json()}), flush=True)
        return
    for seed in given.seeds:
        for name in given.only or [BASELINE, "reward-prediction", "pixel-control"]:
            started = time.process_time()
            steps = steps_until_learnt(name, seed, given.max_env_steps)
            seconds = time.process_time() - started
            print(json.dumps({"auxiliary": name, "seed": seed, "env_steps": steps, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
