"""Env steps per second of a whole training on MT10, one SAC update per vector step, everything at its defaults.

The training loop learns while the environments step. For comparison the same parts do the same work in turn: step, then
learn. Rounds of the two take turns in one process, on the same agent, buffer and environments.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from itertools import islice

import torch

import agents
import envs
from benchmarks.repeats import Repeats
from mtrl.build import build_train_state, build_world
from mtrl.config import resolve_config
from mtrl.train_state import TrainState
from mtrl.trainer import train

WARM_UP_STEPS = 20
"""Vector steps of random actions, and as many with updates, before the clock starts."""


def measure_end_to_end(repeats: int = 5, vector_steps: int = 50) -> Mapping[str, Repeats]:
    """Env steps per second by way of working; `vector_steps` per round."""
    agents.register()
    envs.register()
    config = resolve_config(
        {"suite": "mt10", "agent": {"name": "sac", "random_steps": WARM_UP_STEPS, "buffer_steps": 10_000}}
    )
    state = build_train_state(config, build_world(config.suite, config.settings.seed), torch.device("cpu"))
    try:
        return _measure(state, repeats, vector_steps, config.settings.total_env_steps)
    finally:
        state.envs.close()


def _measure(state: TrainState, repeats: int, vector_steps: int, total_env_steps: int) -> Mapping[str, Repeats]:
    overlapped = train(state, total_env_steps)
    for _ in islice(overlapped, 2 * WARM_UP_STEPS):
        pass
    speeds: dict[str, list[float]] = {"overlapped": [], "in turn": []}
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in islice(overlapped, vector_steps):
            pass
        speeds["overlapped"].append(vector_steps * state.envs.num_envs / (time.perf_counter() - started))
        started = time.perf_counter()
        for _ in range(vector_steps):
            _step_then_learn(state)
        speeds["in turn"].append(vector_steps * state.envs.num_envs / (time.perf_counter() - started))
    return {name: Repeats(tuple(values)) for name, values in speeds.items()}


def _step_then_learn(state: TrainState) -> None:
    assert state.observation is not None
    acted = state.agent.act(state.observation, state.envs.task_ids, explore=True)
    step = state.envs.step(acted.action)
    state.buffer.add(state.observation, acted, step)
    state.observation = step.observation
    state.agent.update(state.buffer, state.scheduler.weights())


def report(speeds: Mapping[str, Repeats]) -> str:
    """Env steps per second, and what the overlap is worth."""
    lines = [f"{name:12} {speed.shown(0)} env steps/s" for name, speed in speeds.items()]
    lines.append(f"overlapped / in turn: {speeds['overlapped'].ratio_to(speeds['in turn']).shown(2)}")
    return "\n".join(lines)


def main() -> None:
    """Prints the speeds."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50, help="vector steps per round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(report(measure_end_to_end(arguments.repeats, arguments.steps)))


if __name__ == "__main__":
    main()
