"""Six Atari games stepped together, and what a stored step takes, side by side with stable-baselines3 in one run.

All play the six games of `atari-mt1` with the same random actions out of 18, sticky actions 0.25, frame skip 4, four
stacked frames of 84 x 84, whole games. stable-baselines3 has its `AtariWrapper` in a process per slot
(`make_atari_env` makes them for one game only; here its parts are put together for six) and `VecFrameStack`. The other
contestant is one `AtariVectorEnv` per game, stepped one after the other. Needs `pip install -e '.[benchmarks]'`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack

from benchmarks.repeats import Repeats
from envs.atari.games import MT1
from envs.atari.suite import Atari
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.env.episodes import RandomEpisodes
from mtrl.types import ActionStep, EnvStep, SuiteSpec

OURS, SUBPROCESSES, IN_TURN = "ours", "SB3 SubprocVecEnv", "AtariVectorEnv per game, in turn"


@dataclass(frozen=True)
class Contestant:
    """One way to step N slots of the six games."""

    step: Callable[[np.ndarray], object]  # actions (N,) int64
    close: Callable[[], None]


def measure_stepping(
    repeats: int = 5, vector_steps: int = 200, slots_per_game: int = 2, seed: int = 1
) -> Mapping[str, Repeats]:
    """Env steps per second by contestant, `vector_steps` per round; the contestants take turns."""
    num_slots = slots_per_game * len(MT1)
    actions = np.random.default_rng(seed).integers(18, size=(vector_steps, num_slots))
    contestants = {
        OURS: _ours(num_slots, seed),
        SUBPROCESSES: _subprocesses(slots_per_game, seed),
        IN_TURN: _in_turn(slots_per_game, seed),
    }
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    try:
        for _ in range(repeats):
            for name, contestant in contestants.items():
                started = time.perf_counter()
                for action in actions:
                    contestant.step(action)
                speeds[name].append(vector_steps * num_slots / (time.perf_counter() - started))
    finally:
        for contestant in contestants.values():
            contestant.close()
    return {name: Repeats(tuple(values)) for name, values in speeds.items()}


def _ours(num_slots: int, seed: int) -> Contestant:
    suite = Atari("atari-mt1", Atari.Config(), seed)
    episodes = RandomEpisodes(suite.spec, num_slots, seed)
    envs = suite.make_envs(num_slots, episodes, mode="train", num_workers=0, worker_timeout=60.0)
    envs.reset()
    return Contestant(envs.step, envs.close)


def _subprocesses(slots_per_game: int, seed: int) -> Contestant:
    # SB3's default start method, a fork server, imports everything once; the environments are made in the children.
    envs = VecFrameStack(
        SubprocVecEnv([partial(_wrapped, game) for game in MT1 for _ in range(slots_per_game)]), n_stack=4
    )
    envs.seed(seed)
    envs.reset()
    return Contestant(envs.step, envs.close)


def _wrapped(game: str) -> gym.Env:
    gym.register_envs(ale_py)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    name = "".join(part.capitalize() for part in game.split("_"))
    env = gym.make(f"ALE/{name}-v5", frameskip=1, full_action_space=True, repeat_action_probability=0.25)
    return AtariWrapper(Monitor(env), terminal_on_life_loss=False, clip_reward=False)


def _in_turn(slots_per_game: int, seed: int) -> Contestant:
    pools = [
        AtariVectorEnv(
            game, slots_per_game, repeat_action_probability=0.25, full_action_space=True, reward_clipping=False
        )
        for game in MT1
    ]
    for pool in pools:
        pool.reset(seed=seed)

    def step(action: np.ndarray) -> None:
        for pool, own in zip(pools, np.split(action, len(pools)), strict=True):
            pool.step(own)

    return Contestant(step, pools.clear)


def measure_memory(rows: int = 1000, num_slots: int = 6) -> Mapping[str, float]:
    """Bytes per stored transition, of full buffers of `rows` vector steps; episodes of 500 env steps."""
    spec = Atari("atari-mt1", Atari.Config(), 1).spec
    bytes_by_name = {OURS: _our_buffer(spec, rows, num_slots).num_bytes / (rows * num_slots)}
    for optimized in (False, True):
        buffer = ReplayBuffer(
            rows * num_slots,
            spec.observation_space,
            spec.action_space,
            n_envs=num_slots,
            optimize_memory_usage=optimized,
            handle_timeout_termination=not optimized,
        )
        arrays = [value for value in vars(buffer).values() if isinstance(value, np.ndarray)]
        name = f"SB3 ReplayBuffer{', optimize_memory_usage' if optimized else ''}"
        bytes_by_name[name] = sum(array.nbytes for array in arrays) / (rows * num_slots)
    return bytes_by_name


def _our_buffer(spec: SuiteSpec, rows: int, num_slots: int) -> RolloutBuffer:
    buffer = RolloutBuffer(spec, num_slots, rows, seed=1)
    observation = np.zeros((num_slots, *spec.observation_space.shape), np.uint8)
    nothing, tasks = np.zeros(num_slots, bool), np.arange(num_slots) % spec.num_tasks
    for row in range(rows):
        ended = np.full(num_slots, row % 500 == 499)
        step = EnvStep(tasks, observation, np.zeros(num_slots, np.float32), ended, nothing, observation, ())
        buffer.add(observation, ActionStep(np.zeros(num_slots, np.int64)), step)
    return buffer


def report_stepping(speeds: Mapping[str, Repeats]) -> str:
    """Speeds, and ours in proportion to each."""
    lines = [f"{name:34} {speed.shown(0)} env steps/s" for name, speed in speeds.items()]
    lines += [f"ours / {name}: {speeds[OURS].ratio_to(speeds[name]).shown(2)}" for name in (SUBPROCESSES, IN_TURN)]
    return "\n".join(lines)


def report_memory(memory: Mapping[str, float]) -> str:
    """Bytes of every buffer."""
    return "\n".join(f"{name:40} {num_bytes:.0f} bytes per stored step" for name, num_bytes in memory.items())


def stepping_results(speeds: Mapping[str, Repeats]) -> dict[str, Any]:
    """What a results file says of the speeds."""
    others = {name: speed for name, speed in speeds.items() if name != OURS}
    return {
        "env_steps_per_second": {name: speed.json() for name, speed in speeds.items()},
        "ours_is_faster_by": {name: speeds[OURS].ratio_to(speed).json() for name, speed in others.items()},
    }


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="vector steps per round")
    parser.add_argument("--slots-per-game", type=int, default=2)
    arguments = parser.parse_args()
    print(report_memory(measure_memory()))
    print(report_stepping(measure_stepping(arguments.repeats, arguments.steps, arguments.slots_per_game)))


if __name__ == "__main__":
    main()
