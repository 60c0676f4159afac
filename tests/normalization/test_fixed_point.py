"""PopArt changes how values are represented, and not what soft actor-critic converges to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agents.sac import SAC
from envs.point_mass import PointMass
from mtrl.evaluation.evaluator import evaluate
from mtrl.networks.hard_sharing.mlp import MLP
from mtrl.normalization import NoNormalizer, ReturnNormalizer
from mtrl.normalization.popart import PopArt
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop

NUM_ENVS = 8
SUITE = PointMass("point-mass", PointMass.Config(), 1)


class QuickPopArt(PopArt):
    """Statistics that follow the returns within a hundred updates."""

    def __init__(self, num_tasks: int, config: Any, discount: float = 0.99):
        super().__init__(num_tasks, PopArt.Config(rate=0.01), discount)


def trained(normalizer: type[ReturnNormalizer], vector_steps: int, **config: Any) -> tuple[SAC, np.ndarray]:
    """An agent with SAC's own temperatures, and its last values of the tasks (M,) in reward units."""
    settings = SAC.Config(learning_starts=10 * NUM_ENVS, **config)
    components: Any = {"normalizer": normalizer, "architecture_config": MLP.Config(width=64, depth=2)}
    agent = make_agent(SAC, settings, SUITE.spec, num_envs=NUM_ENVS, **components)
    values = [
        progress.metrics["q_value"].numpy()
        for progress in training_loop(make_train_state(agent, SUITE), vector_steps * NUM_ENVS)
        if progress.metrics
    ]
    return agent, np.mean(values[-10:], axis=0)


@pytest.mark.slow
def test_values_under_popart_are_those_without_it() -> None:
    # With temperatures in normalized units they are five times as large by then, and grow.
    settings = {"batch_size": 64, "discount": 0.97, "learning_rate": 3e-3, "target_rate": 0.05}
    (_, plain), (_, popart) = (trained(normalizer, 200, **settings) for normalizer in (NoNormalizer, QuickPopArt))
    assert plain.min() > 2
    np.testing.assert_allclose(popart, plain, rtol=0.3)


@pytest.mark.full
def test_returns_under_popart_are_those_without_it_at_the_default_settings() -> None:
    returns = []
    for normalizer in (NoNormalizer, PopArt):
        agent, _ = trained(normalizer, 6000, batch_size=128, learning_rate=1e-3)
        returns.append(evaluate(agent, SUITE, 25, seed=1, num_workers=0).mean_returns)
        print(f"\n{normalizer.__name__}: returns {returns[-1]}")
    # Of 13 to 17, where a policy that has diverged gets less than -5.
    assert np.min(returns) > 10
    np.testing.assert_allclose(returns[1].mean(), returns[0].mean(), atol=2.0)
