"""Seconds of a whole evaluation on MT10, ours against `metaworld.evaluation.evaluation`, with the same numbers.

Both play the same goals of the same benchmark object with the same untrained SAC agent, which hardly ever succeeds, so
nearly every episode has its full length. Set-up of the environments does not count. The official function runs on the
official vector environments, one environment per task.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import agents
import envs
from benchmarks.machine import prepare_process
from benchmarks.repeats import Repeats
from envs.metaworld.official import OfficialAgent
from envs.metaworld.suite import MetaWorld
from mtrl.config.schema import resolve_config
from mtrl.evaluation.evaluator import Evaluator
from mtrl.optim.cpu import available_cores
from mtrl.training.build import build_agent, build_suite

GOALS = 50


def measure_evaluation(
    repeats: int = 1, strategies: tuple[str, ...] = ("async", "sync"), seed: int = 1
) -> Mapping[str, Repeats]:
    """Seconds of 50 episodes on each of the ten tasks, by who plays them; raises RuntimeError if the numbers differ."""
    from metaworld.evaluation import evaluation

    agents.register()
    envs.register()
    config = resolve_config({"suite": "mt10", "agent": "sac", "architecture": "multi-head", "seed": seed})
    suite = build_suite(config.suite, seed)
    assert isinstance(suite, MetaWorld)
    agent = build_agent(config, suite, torch.device("cpu"))
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *strategies)}
    for _ in range(repeats):
        with Evaluator(suite, seed, available_cores()) as evaluator:
            evaluator.evaluate(agent, episodes_per_task=1)  # starts the environments
            started = time.perf_counter()
            ours = evaluator.evaluate(agent, GOALS)
            seconds["ours"].append(time.perf_counter() - started)
        for strategy in strategies:
            official = gym.make_vec("Meta-World/MT10", vector_strategy=strategy, seed=seed, task_select="pseudorandom")
            official.call("toggle_sample_tasks_on_reset", True)  # type: ignore[attr-defined]
            started = time.perf_counter()
            _, _, rates, returns = evaluation(OfficialAgent(agent), official, num_episodes=GOALS)
            seconds[strategy].append(time.perf_counter() - started)
            official.close()
            _check_same(ours.successes, ours.returns, suite.spec.task_names, rates, returns)
    return {name: Repeats(tuple(values)) for name, values in seconds.items()}


def _check_same(
    successes: np.ndarray, own_returns: np.ndarray, names: tuple[str, ...], rates: Mapping[str, float], returns: Any
) -> None:
    for name, own_successes, own in zip(names, successes, own_returns, strict=True):
        same_returns = np.allclose(sorted(own), sorted(returns[name]), rtol=1e-5)
        if round(rates[name] * GOALS) != own_successes.sum() or not same_returns:
            raise RuntimeError(f"the two evaluations differ at task {name}")


def report(seconds: Mapping[str, Repeats]) -> str:
    """Seconds and ratios."""
    ours = seconds["ours"]
    lines = [f"{name:6} {own.shown(1)} s" for name, own in seconds.items()]
    lines += [f"{name} / ours: {own.ratio_to(ours).shown(2)}" for name, own in seconds.items() if name != "ours"]
    return "\n".join(lines)


def main() -> None:
    """Prints seconds and ratios."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    prepare_process(torch.get_num_threads())
    print(report(measure_evaluation(arguments.repeats)))


if __name__ == "__main__":
    main()
