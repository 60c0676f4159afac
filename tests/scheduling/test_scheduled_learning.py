"""Seven tasks that any policy solves and one that has to be learnt: what schedulers make of it.

Eight slots play 160 vector steps, the first twenty with equal shares.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agents.sac import SAC
from envs.point_mass import PointMass
from mtrl.evaluation.evaluator import evaluate
from mtrl.networks.hard_sharing.mlp import MLP
from mtrl.scheduling import schedulers
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop

NUM_ENVS = 8
VECTOR_STEPS = 160
ACTIVE = ["distance", "a5c", "ua4c", "ea4c", "explicit", "dtp", "implicit", "t3s", "smt"]
# All episodes end together here, so that the meta-learner decides seven times only: it must be quick.
SETTINGS: dict[str, dict[str, Any]] = {
    "uniform": {},
    **{name: {"uniform_episodes": 1} for name in ACTIVE},
    "ea4c": {"uniform_episodes": 1, "decisions_per_update": 1, "discount": 0.0, "learning_rate": 0.03},
    # These weigh losses by default. By the other default of `implicit` no share exceeds 1.5 uniform ones.
    "dtp": {"uniform_episodes": 1, "mode": "sample"},
    "implicit": {"uniform_episodes": 1, "mode": "sample", "gamma": 1.0},
}


def learn(name: str, seed: int) -> tuple[float, float]:
    """Mean share of the hard task, and the worst task's mean score as a fraction of its target."""
    suite = PointMass("point-mass-hard", PointMass.Config(), seed)
    config = SAC.Config(
        batch_size=8,
        learning_starts=20 * NUM_ENVS,
        discount=0.7,
        learning_rate=3e-3,
        alpha_learning_rate=1e-2,
        initial_alpha=0.2,
        target_rate=0.05,
    )
    network = MLP.Config(width=32, depth=2)
    agent = make_agent(SAC, config, suite.spec, seed, num_envs=NUM_ENVS, architecture_config=network)
    cls: Any = schedulers.get(name)
    scheduler = cls(suite.spec, cls.Config(**SETTINGS[name]), seed)
    state = make_train_state(agent, suite, seed, scheduler)
    shares = [scheduler.weights()[-1] for _ in training_loop(state, VECTOR_STEPS * NUM_ENVS)]
    result = evaluate(agent, suite, 25, seed=1, num_workers=0)
    return float(np.mean(shares)), float((result.mean_scores / result.target_scores).min())


@pytest.fixture(scope="module")
def uniform() -> float:
    share, worst = learn("uniform", 1)
    assert share == 1 / 8
    return worst


QUICK = ["a5c", "smt", "ua4c"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ACTIVE]
)
def test_the_hard_task_gets_more_than_its_share_and_the_worst_score_rises(name: str, uniform: float) -> None:
    share, worst = learn(name, 1)
    assert share > 1.5 / 8
    assert worst > uniform


@pytest.mark.full
def test_so_it_is_over_five_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    found = {name: np.array([learn(name, seed) for seed in range(1, 6)]) for name in SETTINGS}
    with capsys.disabled():
        for name, rows in found.items():
            share, worst = rows.T
            print(f"{name:13}{share.mean():.2f}  {worst.mean():.2f} ({worst.min():.2f} to {worst.max():.2f})")
    for name in ACTIVE:
        assert (found[name][:, 0] > 1.5 / 8).all()
        assert found[name][:, 1].mean() > found["uniform"][:, 1].mean()
