"""Routers learn to separate two tasks with the same observations and opposite optimal actions.

The blocks do not know the task: unless the router separates the tasks, both move alike, as with a perceptron that is
not told the task. Then the mean return is 4 at most (`test_learning.py`), of 17.4.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
import torch

from agents.ppo import PPO
from agents.sac import SAC
from mtrl.agent import Agent
from mtrl.evaluation.evaluator import evaluate
from mtrl.networks.hard_sharing.mlp import MLP
from mtrl.networks.modular.routing import Routing
from mtrl.networks.size import num_parameters
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from tests.training.test_learning import NUM_ENVS, PPO_SETTINGS, SETTINGS, point_mass

BLIND = 4.0
SMALL: dict[str, Any] = {"width": 32, "router_width": 32, "depth": 2, "num_modules": 2, "wpl_rate": 0.2}


def trained(cls: type[Agent], vector_steps: int, seed: int = 1, **parts: Any) -> tuple[Any, list[float]]:
    """An agent after a short training, and its mean return on every start of each task."""
    suite = point_mass("point-mass-conflict")
    if cls is PPO:
        settings = PPO.Config(**PPO_SETTINGS, annealing_steps=vector_steps * NUM_ENVS)
    else:
        settings = SAC.Config(**SETTINGS)
    agent = make_agent(cls, settings, suite.spec, seed, num_envs=NUM_ENVS, **parts)
    for _ in training_loop(make_train_state(agent, suite), vector_steps * NUM_ENVS):
        pass
    return agent, evaluate(agent, suite, 25, seed=1, num_workers=0).mean_returns.tolist()


def routed(cls: type[Agent], vector_steps: int, seed: int = 1, **settings: Any) -> tuple[list[Any], list[float]]:
    """Most likely routes of both tasks in the middle of the square, and mean returns."""
    config = Routing.Config(**SMALL | settings)
    agent, returns = trained(cls, vector_steps, seed, architecture=Routing, architecture_config=config)
    policy = agent.policy if cls is SAC else agent.networks.policy
    choice = policy.architecture(torch.zeros(2, 2), torch.arange(2)).diagnostics["choice"]
    return choice.argmax(-1).tolist(), returns


@pytest.mark.parametrize(
    ("cls", "vector_steps", "learning"),
    [pytest.param(PPO, 400, "reinforce", marks=pytest.mark.slow), (SAC, 250, "gumbel")],
    ids=["ppo", "sac"],
)
def test_a_router_learns_to_separate_opposite_tasks(cls: type[Agent], vector_steps: int, learning: str) -> None:
    (first, second), returns = routed(cls, vector_steps, learning=learning)
    assert first != second
    assert sum(returns) / 2 > 2 * BLIND, returns


MODES = [
    {"learning": "gumbel"},
    {"learning": "reinforce"},
    {"learning": "wpl"},
    {"router": "shared", "learning": "gumbel"},
    {"router": "shared", "learning": "reinforce"},
]


FULL_STEPS = 800


@pytest.mark.full
@pytest.mark.parametrize("cls", [SAC, PPO])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: " ".join(mode.values()))
def test_every_router_separates_opposite_tasks_from_most_seeds(cls: type[Agent], mode: dict[str, Any]) -> None:
    """`-s` shows the returns."""
    separated = []
    for seed in (1, 2, 3):
        (first, second), returns = routed(cls, FULL_STEPS, seed, **mode)
        separated.append(first != second and sum(returns) / 2 > 2 * BLIND)
        print(f"\n{cls.__name__} {mode} seed {seed}: returns {returns}, routes {first} and {second}")
    assert sum(separated) >= 2


@pytest.mark.full
@pytest.mark.parametrize("cls", [SAC, PPO])
@pytest.mark.parametrize("task_input", ["one-hot", "none"])
def test_a_perceptron_as_large_learns_opposite_tasks_if_it_is_told_which(cls: type[Agent], task_input: Any) -> None:
    """`-s` shows the returns, to be read beside those of the routers."""
    size = num_parameters(Routing(2, 2, 2, Routing.Config(**SMALL)))
    widths = (width for width in count(1) if num_parameters(MLP(2, 2, 2, MLP.Config(width=width, depth=2))) >= size)
    config = MLP.Config(width=next(widths), depth=2, task_input=task_input)
    _, returns = trained(cls, FULL_STEPS, architecture=MLP, architecture_config=config)
    print(f"\n{cls.__name__} mlp of width {config.width} with task input {task_input}: returns {returns}")
    assert (sum(returns) / 2 > 2 * BLIND) == (task_input == "one-hot")
