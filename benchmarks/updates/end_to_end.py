"""Env steps per second of a whole SAC training on MT10, one update on 1 280 transitions per vector step of ten slots.

Ours against stable-baselines3's SAC on gymnasium's AsyncVectorEnv: 3 x 400 networks, the same fused Adam, the official
environments. Our training loop learns while the environments step; beside it the same parts do the same work in turn:
step, then learn. Rounds of the contestants take turns in one process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice

import gymnasium as gym
import torch
from stable_baselines3 import SAC as SB3SAC

import agents
import envs
from benchmarks.gymnasium_vec_env import GymnasiumVecEnv
from benchmarks.machine import prepare_process
from benchmarks.repeats import Repeats
from mtrl.config.schema import resolve_config
from mtrl.optim.matmul_backend import default_matmul_backend
from mtrl.scheduling import task_weights
from mtrl.training.build import build_agent, build_suite, build_train_state
from mtrl.training.run import training_loop
from mtrl.training.train_state import TrainState
from mtrl.types import Precision

OURS, IN_TURN, THEIRS = "ours", "ours, step then learn", "stable-baselines3 on AsyncVectorEnv"
BFLOAT16 = "ours, bfloat16"
"""With products that round to bfloat16; all others, theirs too, have single precision."""
THEIRS_OUR_PRODUCTS = "theirs, our products"
"""Theirs with products by the library that ours chooses (`mtrl.optim.matmul_backend`) instead of torch's own choice."""

WARM_UP_STEPS = 20
"""Vector steps of random actions, and as many with updates, before the clock starts."""

NUM_SLOTS, WIDTH, DEPTH, BATCH_SIZE, BUFFER_STEPS = 10, 400, 3, 1280, 10_000

Round = Callable[[int], object]
"""Makes a number of vector steps with an update after each."""


def measure_end_to_end(repeats: int = 5, vector_steps: int = 50) -> Mapping[str, Repeats]:
    """Env steps per second by contestant; `vector_steps` per round."""
    agents.register()
    envs.register()
    speeds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        contestants = {
            **stack.enter_context(_our_trainings("float32")),
            BFLOAT16: stack.enter_context(_our_trainings("bfloat16"))[OURS],
        }
        theirs = stack.enter_context(_their_training())
        contestants |= {THEIRS: default_matmul_backend()(theirs), THEIRS_OUR_PRODUCTS: theirs}
        for _ in range(repeats):
            for name, make_steps in contestants.items():
                started = time.perf_counter()
                make_steps(vector_steps)
                seconds = time.perf_counter() - started
                speeds.setdefault(name, []).append(vector_steps * NUM_SLOTS / seconds)
    return {name: Repeats(tuple(values)) for name, values in speeds.items()}


@contextmanager
def _our_trainings(precision: Precision) -> Iterator[Mapping[str, Round]]:
    config = resolve_config(
        {
            "suite": "mt10",
            "num_envs": NUM_SLOTS,
            "precision": precision,
            "architecture": {"name": "multi-head", "width": WIDTH, "depth": DEPTH},
            "agent": {
                "name": "sac",
                "batch_size": BATCH_SIZE,
                "learning_starts": NUM_SLOTS * WARM_UP_STEPS,
                "buffer_size": NUM_SLOTS * BUFFER_STEPS,
            },
        }
    )
    suite = build_suite(config.suite, config.settings.seed)
    state = build_train_state(config, suite, build_agent(config, suite, torch.device("cpu")))
    overlapped = training_loop(state, config.settings.total_env_steps)

    def overlap(vector_steps: int) -> None:
        for _ in islice(overlapped, vector_steps):
            pass

    def take_turns(vector_steps: int) -> None:
        for _ in range(vector_steps):
            _step_then_learn(state)

    try:
        overlap(2 * WARM_UP_STEPS)
        yield {OURS: overlap, IN_TURN: take_turns}
    finally:
        state.envs.close()


def _step_then_learn(state: TrainState) -> None:
    assert state.observation is not None
    acted = state.agent.act(state.observation, state.envs.task_ids, explore=True)
    step = state.envs.step(acted.action)
    state.buffer.add(state.observation, acted, step)
    state.observation = step.observation
    state.agent.update(state.buffer, task_weights(state.scheduler, state.agent.num_tasks))


@contextmanager
def _their_training() -> Iterator[Round]:
    import metaworld  # noqa: F401  registers the vector environments

    # Their one-hot task is part of the observation.
    vec_env = GymnasiumVecEnv(gym.make_vec("Meta-World/MT10", vector_strategy="async", seed=1, use_one_hot=True))
    model = SB3SAC(
        "MlpPolicy",
        vec_env,
        batch_size=BATCH_SIZE,
        buffer_size=BUFFER_STEPS * NUM_SLOTS,
        learning_starts=WARM_UP_STEPS * NUM_SLOTS,
        learning_rate=3e-4,
        train_freq=1,
        gradient_steps=1,
        policy_kwargs={
            "net_arch": DEPTH * [WIDTH],
            "n_critics": 2,
            "optimizer_class": torch.optim.Adam,
            "optimizer_kwargs": {"eps": 1e-5, "fused": True},
        },
        seed=0,
        device="cpu",
    )

    def learn(vector_steps: int) -> None:
        model.learn(vector_steps * NUM_SLOTS, reset_num_timesteps=False)

    try:
        learn(2 * WARM_UP_STEPS)
        yield learn
    finally:
        vec_env.close()


def report(speeds: Mapping[str, Repeats]) -> str:
    """Env steps per second, and how much faster ours is than each."""
    lines = [f"{name:36} {speed.shown(0)} env steps/s" for name, speed in speeds.items()]
    ours = speeds[OURS]
    lines += [f"{OURS} / {name}: {ours.ratio_to(own).shown(2)}" for name, own in speeds.items() if name != OURS]
    lines.append(f"{BFLOAT16} / {THEIRS}: {speeds[BFLOAT16].ratio_to(speeds[THEIRS]).shown(2)}")
    return "\n".join(lines)


def main() -> None:
    """Prints the speeds."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50, help="vector steps per round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    arguments = parser.parse_args()
    prepare_process(arguments.threads)
    print(report(measure_end_to_end(arguments.repeats, arguments.steps)))


if __name__ == "__main__":
    main()
