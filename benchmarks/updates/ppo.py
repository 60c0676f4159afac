"""Env steps per second of PPO on MT10, end to end: ours against stable-baselines3's on gymnasium's AsyncVectorEnv.

Both play the ten official environments, one slot each, with 3 x 400 networks for policy and value that see the one-hot
task, and make the same number of epochs and minibatches on rollouts of the same length with the same fused Adam. A
round is one rollout and what is learnt from it; rounds take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from stable_baselines3 import PPO as SB3PPO

import agents
import envs
from benchmarks.gymnasium_vec_env import GymnasiumVecEnv
from benchmarks.machine import prepare_process
from benchmarks.repeats import Repeats
from mtrl.config.schema import resolve_config
from mtrl.optim.matmul_backend import default_matmul_backend
from mtrl.training.build import build_agent, build_suite, build_train_state
from mtrl.training.run import training_loop
from mtrl.training.train_state import TrainState
from mtrl.types import Precision

OURS, BFLOAT16, THEIRS = "ours", "ours, bfloat16", "stable-baselines3 on AsyncVectorEnv"
"""`ours, bfloat16` rounds what networks multiply to bfloat16; the others have single precision."""
THEIRS_OUR_PRODUCTS = "theirs, our products"
"""Theirs with products by the library that ours chooses (`mtrl.optim.matmul_backend`) instead of torch's own choice."""


@dataclass(frozen=True, kw_only=True)
class PPOSizes:
    """What decides the work of a round."""

    rollout_steps: int = 9984  # vector steps: the published 10 000, as a multiple of the minibatches for theirs
    epochs: int = 16
    minibatches: int = 32
    width: int = 400
    depth: int = 3
    num_tasks: int = 10

    @property
    def rows(self) -> int:
        """Env steps of a rollout."""
        return self.rollout_steps * self.num_tasks


class PPOTimes(NamedTuple):
    """What was measured, by contestant."""

    speeds: Mapping[str, Repeats]  # env steps per second of every round
    learning: Mapping[str, Repeats]  # share of the round's time that goes into learning from the rollout

    @property
    def bound(self) -> Repeats:
        """How much faster theirs would be if acting and stepping took no time."""
        return Repeats(tuple(1 / share for share in self.learning[THEIRS].values))


def measure_ppo(repeats: int = 5, sizes: PPOSizes | None = None) -> PPOTimes:
    """Every repeat is a round of each contestant; one of each goes before the clock starts."""
    agents.register()
    envs.register()
    sizes = sizes or PPOSizes()
    speeds: dict[str, list[float]] = {OURS: [], BFLOAT16: [], THEIRS: [], THEIRS_OUR_PRODUCTS: []}
    learning: dict[str, list[float]] = {name: [] for name in speeds}
    with ExitStack() as stack:
        theirs = stack.enter_context(_their_training(sizes))
        trainings = {
            OURS: stack.enter_context(_our_training(sizes, "float32")),
            BFLOAT16: stack.enter_context(_our_training(sizes, "bfloat16")),
            THEIRS: theirs,
            THEIRS_OUR_PRODUCTS: theirs,
        }
        for repeat in range(repeats + 1):
            for name, training in trainings.items():
                started, learnt = time.perf_counter(), training.learning_seconds
                with default_matmul_backend() if name == THEIRS else nullcontext():
                    training.make_round()
                if repeat:
                    seconds = time.perf_counter() - started
                    speeds[name].append(sizes.rows / seconds)
                    learning[name].append((training.learning_seconds - learnt) / seconds)
    return PPOTimes(_repeats(speeds), _repeats(learning))


def _repeats(values: Mapping[str, list[float]]) -> Mapping[str, Repeats]:
    return {name: Repeats(tuple(own)) for name, own in values.items()}


class Training:
    """A training that can be made to go on for a round, and the time that it has spent in `learn`."""

    def __init__(self, make_round: Callable[[], object], owner: Any, learn: str):
        """`owner.learn` is wrapped with a clock."""
        self.make_round = make_round
        self.learning_seconds = 0.0
        original = getattr(owner, learn)

        def clocked(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = original(*arguments)
            self.learning_seconds += time.perf_counter() - started
            return result

        setattr(owner, learn, clocked)


@contextmanager
def _our_training(sizes: PPOSizes, precision: Precision) -> Iterator[Training]:
    agent = {
        "name": "ppo",
        "rollout_steps": sizes.rollout_steps,
        "epochs": sizes.epochs,
        "minibatches": sizes.minibatches,
    }
    architecture = {"name": "mlp", "width": sizes.width, "depth": sizes.depth}
    config = resolve_config({"suite": "mt10", "agent": agent, "architecture": architecture, "precision": precision})
    suite = build_suite(config.suite, config.settings.seed)
    state: TrainState = build_train_state(config, suite, build_agent(config, suite, torch.device("cpu")))
    try:
        turns = training_loop(state, config.settings.total_env_steps)
        rounds = (turn for turn in turns if turn.metrics)  # one for each rollout
        yield Training(lambda: next(rounds), state.agent, "update")
    finally:
        state.envs.close()


@contextmanager
def _their_training(sizes: PPOSizes) -> Iterator[Training]:
    import metaworld  # noqa: F401  registers the vector environments

    # Their one-hot task is part of the observation, as ours is of the network's input.
    vec_env = GymnasiumVecEnv(gym.make_vec("Meta-World/MT10", vector_strategy="async", seed=1, use_one_hot=True))
    layers = sizes.depth * [sizes.width]
    model = SB3PPO(
        "MlpPolicy",
        vec_env,
        n_steps=sizes.rollout_steps,
        batch_size=sizes.rows // sizes.minibatches,
        n_epochs=sizes.epochs,
        learning_rate=3e-4,
        gae_lambda=0.97,
        clip_range=0.2,
        ent_coef=5e-3,
        vf_coef=1e-3,
        max_grad_norm=1.0,
        policy_kwargs={
            "net_arch": {"pi": layers, "vf": layers},
            "activation_fn": torch.nn.ReLU,
            "optimizer_class": torch.optim.Adam,
            "optimizer_kwargs": {"eps": 1e-5, "fused": True},
        },
        seed=0,
        device="cpu",
    )

    try:
        yield Training(lambda: model.learn(sizes.rows, reset_num_timesteps=False), model, "train")
    finally:
        vec_env.close()


def report(times: PPOTimes) -> str:
    """Env steps per second, how much faster ours is, and how much faster it could be."""
    lines = [
        f"{name:36} {speed.shown(0)} env steps/s, learning takes {times.learning[name].shown(2)} of it"
        for name, speed in times.speeds.items()
    ]
    lines += [
        f"{ours} / {theirs}: {times.speeds[ours].ratio_to(times.speeds[theirs]).shown(2)}"
        for ours in (OURS, BFLOAT16)
        for theirs in (THEIRS, THEIRS_OUR_PRODUCTS)
    ]
    lines.append(f"{THEIRS} with steps that cost nothing would be faster by {times.bound.shown(2)}")
    return "\n".join(lines)


def main() -> None:
    """Prints the speeds."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rollout-steps", type=int, default=PPOSizes.rollout_steps, help="vector steps")
    parser.add_argument("--epochs", type=int, default=PPOSizes.epochs)
    parser.add_argument("--minibatches", type=int, default=PPOSizes.minibatches)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    arguments = parser.parse_args()
    prepare_process(arguments.threads)
    sizes = PPOSizes(rollout_steps=arguments.rollout_steps, epochs=arguments.epochs, minibatches=arguments.minibatches)
    print(report(measure_ppo(arguments.repeats, sizes)))


if __name__ == "__main__":
    main()
