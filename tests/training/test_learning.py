"""Agents learn the small suites to their known optimum, and fail where they must.

The settings are chosen for speed: a short horizon, small networks and 16 slots need a few hundred updates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agents.ppo import PPO
from agents.sac import SAC
from envs.point_mass import PointMass
from mtrl.agent import Agent
from mtrl.aggregation import aggregators
from mtrl.aggregation.projection.pcgrad import PCGrad
from mtrl.evaluation.evaluator import EvaluationResult, evaluate
from mtrl.networks.hard_sharing.mlp import MLP
from mtrl.networks.hard_sharing.multi_head import MultiHead
from mtrl.networks.hard_sharing.separate import Separate
from mtrl.normalization import normalizers
from mtrl.normalization.popart import PopArt
from mtrl.policies.distral import Distral
from mtrl.scheduling import TaskScheduler
from mtrl.scheduling.fixed import Fixed
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop

NUM_ENVS = 16
SETTINGS: dict[str, Any] = {
    "batch_size": 128,
    "learning_starts": 20 * NUM_ENVS,
    "discount": 0.7,
    "learning_rate": 3e-3,
    "alpha_learning_rate": 1e-2,
    "initial_alpha": 0.2,
    "target_rate": 0.05,
}
DISCRETE = {"target_entropy_scale": 0.3}
PPO_SETTINGS: dict[str, Any] = {
    "rollout_steps": 20,
    "epochs": 6,
    "discount": 0.7,
    "gae_lambda": 0.9,
    "clip_range": 0.2,
    "entropy_coefficient": 0.002,
    "learning_rate": 3e-3,
    "max_grad_norm": 1.0,
    "initial_log_std": -0.5,
}
SMALL_MLP: dict[str, Any] = {"architecture_config": MLP.Config(width=64, depth=2)}
SMALL_MULTI_HEAD: dict[str, Any] = {
    "architecture": MultiHead,
    "architecture_config": MultiHead.Config(width=64, depth=2),
}
MARGIN = 2.0
"""Reward short of the optimum that counts as learnt: of 13 to 17 in an episode, where chance gets less than 0."""


def learn(
    suite: PointMass, vector_steps: int, parts: dict[str, Any] | None = None, **settings: Any
) -> EvaluationResult:
    """SAC's returns on every start of every task after a short training."""
    return returns_of(SAC, SAC.Config(**SETTINGS | settings), suite, vector_steps, parts)


def learn_by_ppo(
    suite: PointMass,
    rollouts: int,
    parts: dict[str, Any] | None = None,
    scheduler: TaskScheduler | None = None,
    **settings: Any,
) -> EvaluationResult:
    """PPO's, its learning rate falling to zero: what the mode of a policy does depends on its last steps."""
    vector_steps = rollouts * PPO_SETTINGS["rollout_steps"]
    config = PPO.Config(**PPO_SETTINGS | settings, annealing_steps=vector_steps * NUM_ENVS)
    return returns_of(PPO, config, suite, vector_steps, parts, scheduler)


def returns_of(
    cls: type[Agent],
    config: Any,
    suite: PointMass,
    vector_steps: int,
    parts: dict[str, Any] | None,
    scheduler: TaskScheduler | None = None,
) -> EvaluationResult:
    agent = make_agent(cls, config, suite.spec, num_envs=NUM_ENVS, **(parts or SMALL_MLP))
    state = make_train_state(agent, suite, scheduler=scheduler)
    for _ in training_loop(state, vector_steps * NUM_ENVS):
        pass
    return evaluate(agent, suite, 25, seed=1, num_workers=0)


def point_mass(name: str) -> PointMass:
    return PointMass(name, PointMass.Config(), 1)


def optimum(suite: PointMass) -> np.ndarray:
    """Best mean return of each task (M,)."""
    return np.array([task.target_return for task in suite.spec.tasks])


@pytest.mark.slow
def test_sac_learns_continuous_actions_to_the_optimum() -> None:
    suite = point_mass("point-mass")
    result = learn(suite, 600)
    assert (result.mean_returns >= optimum(suite) - MARGIN).all(), result.mean_returns
    assert result.mean_success_rate >= 0.95


@pytest.mark.slow
def test_sac_learns_discrete_actions_to_the_optimum() -> None:
    suite = point_mass("point-mass-discrete")
    result = learn(suite, 550, **DISCRETE)
    assert (result.mean_returns >= optimum(suite) - MARGIN).all(), result.mean_returns
    assert result.mean_success_rate >= 0.95


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        pytest.param("point-mass-conflict", SMALL_MLP, id="continuous"),
        pytest.param(
            "point-mass-conflict-discrete", SMALL_MULTI_HEAD, id="discrete, multi-head", marks=pytest.mark.slow
        ),
        pytest.param(
            "point-mass-conflict", SMALL_MLP | {"aggregator": PCGrad}, id="continuous, pcgrad", marks=pytest.mark.full
        ),
        pytest.param(
            "point-mass-conflict-discrete",
            SMALL_MULTI_HEAD | {"aggregator": PCGrad},
            id="discrete, multi-head, pcgrad",
            marks=pytest.mark.full,
        ),
    ],
)
def test_sac_learns_opposite_optimal_actions_when_it_knows_the_task(name: str, parts: dict[str, Any]) -> None:
    suite = point_mass(name)
    result = learn(suite, 400, parts, **(DISCRETE if suite.discrete else {}))
    assert (result.mean_returns >= optimum(suite) - MARGIN).all(), result.mean_returns


@pytest.mark.slow
def test_sac_cannot_learn_opposite_optimal_actions_without_the_task() -> None:
    # Who does not know the task moves alike in both. The goals are at x = -0.8 and 0.8, so the two distances along x
    # add up to 1.6 at least, the mean reward of a step is 0.2 at most, and that of 20 steps is 4. (Not so with
    # discrete actions: there the tasks differ in which ones are legal.)
    suite = point_mass("point-mass-conflict")
    blind = {"architecture_config": MLP.Config(width=64, depth=2, task_input="none")}
    result = learn(suite, 200, blind)
    assert result.mean_returns.mean() <= 20 * 0.2 + 1e-3, result.mean_returns
    assert optimum(suite).mean() - MARGIN > 12


@pytest.mark.full
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("name", ["point-mass", "point-mass-discrete", "point-mass-visible", "point-mass-conflict"])
def test_sac_learns_from_every_seed(name: str, seed: int) -> None:
    suite = point_mass(name)
    settings = DISCRETE if suite.discrete else {}
    result = learn(suite, 700, SMALL_MLP | {"seed": seed}, **settings)
    assert (result.mean_returns >= optimum(suite) - MARGIN).all(), result.mean_returns


PPO_CASES = [
    pytest.param("point-mass", SMALL_MLP, id="continuous"),
    pytest.param("point-mass-discrete", SMALL_MLP, id="discrete"),
    pytest.param(
        "point-mass-conflict",
        SMALL_MULTI_HEAD | {"aggregator": PCGrad},
        id="multi-head, pcgrad",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("name", "parts"), PPO_CASES)
def test_ppo_learns_to_the_optimum(name: str, parts: dict[str, Any]) -> None:
    suite = point_mass(name)
    result = learn_by_ppo(suite, 20, parts)
    assert (result.mean_returns >= optimum(suite) - MARGIN).all(), result.mean_returns


def test_ppo_cannot_learn_opposite_optimal_actions_without_the_task() -> None:
    suite = point_mass("point-mass-conflict")
    blind = {"architecture_config": MLP.Config(width=64, depth=2, task_input="none")}
    result = learn_by_ppo(suite, 10, blind)
    assert result.mean_returns.mean() <= 20 * 0.2 + 1e-3, result.mean_returns  # as above


def solved(suite: PointMass, result: EvaluationResult) -> list[bool]:
    """Task by task, in the units of each."""
    scales = np.array([goal.reward_scale for goal in suite.goals])
    return (result.mean_returns / scales >= optimum(suite) / scales - MARGIN).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(2, 6))])
def test_sac_learns_both_of_two_rewards_that_differ_by_1000_with_popart_only(seed: int) -> None:
    # Temperatures are in reward units: one of them has to rise a thousandfold within the training.
    suite = point_mass("point-mass-scales-1000")
    parts = SMALL_MLP | {"seed": seed}
    settings = {"initial_alpha": 1.0, "alpha_learning_rate": 5e-2}
    assert solved(suite, learn(suite, 700, parts | {"normalizer": PopArt}, **settings)) == [True, True]
    assert not solved(suite, learn(suite, 700, parts, **settings))[0]  # that of small rewards


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(2, 6))])
def test_ppo_learns_the_task_of_small_rewards_with_popart_only(seed: int) -> None:
    # Advantages normalised per task would cancel the scale in both arms.
    suite = point_mass("point-mass-scales-1000")
    parts = SMALL_MLP | {"seed": seed}
    plain = {"normalize_advantages": False}
    assert solved(suite, learn_by_ppo(suite, 20, parts | {"normalizer": PopArt}, **plain)) == [True, True]
    # Without, the large task is as good as alone: all of a step's direction is its.
    without = learn_by_ppo(suite, 20, parts, **plain)
    assert without.success_rates[0] < 0.2
    assert without.success_rates[1] > 0.5


BALANCED = [
    pytest.param("sac", "mean", "popart", None, marks=pytest.mark.slow),
    ("ppo", "mean", "popart", None),
    pytest.param("ppo", "imtl-g", "none", 40, marks=pytest.mark.slow),
    pytest.param("ppo", "nash-mtl", "none", 40, marks=pytest.mark.slow),
]
"""Agent, aggregator, normalizer and rollouts (None: 20) with which a shared MLP solves all three tasks of
`point-mass-scales`, whose rewards are multiplied by 1, 10 and 100.

Without a normalizer, `mean` does not: the task of small rewards is missed.

Measured, return minus optimum in units of each reward, seeds 1, 2 and 3:

    SAC, mean       -9.1  -0.8  -0.4     -6.7  -0.4  -0.3    -4.9  -0.5  -0.5
    SAC, PopArt     -0.3  -0.6  -0.7     -0.3  -0.4  -1.0    -0.3  -0.4  -0.3
    PPO, mean      -23.5  -2.7  -3.7    -22.8  -3.7  -3.7   -22.1  -2.5  -1.3
    PPO, PopArt     -0.7  -0.7  -1.0     -0.6  -0.5  -0.4    -0.5  -0.6  -0.4

SAC has 1400 updates. After 700 with PopArt, seeds 1, 2, 4 and 5 of five still miss some starts of the largest rewards
(-3.4 and -3.5). When its statistics started at 0 and 1, only seed 3 did: probably because normalised values of the
largest rewards were then the largest for hundreds of updates, and so was their part of the gradient.

PPO with 40 rollouts:

    mean            -3.2  -0.7  -0.2    -14.5  -0.7  -0.2    -5.4  -0.3  -0.3
    imtl-g          -0.4  -0.2  -0.4     -0.3  -0.3  -0.4    -0.2  -0.2  -0.5
    nash-mtl        -0.5  -0.2  -0.3     -0.4  -0.1  -0.2    -0.4  -0.2  -0.5
    geometric-mean  -0.2  -0.2  -1.9     -0.1  -0.6  -3.4    -0.2  -0.6  -5.2
    uncertainty     -0.5  -0.4  -0.3     -3.1  -1.2  -0.2    -0.6  -1.0  -0.4

`geometric-mean` saves the task of small rewards at the cost of the largest: its weights multiply the policy's loss too,
which grows with the rewards and not with their square. `uncertainty` has a learning rate of 0.05 here, since its
default moves a weight by 100 in thousands of updates only. SAC's actor takes no weighting that reads losses, so there
`geometric-mean` is no help (-0.5 -5.9 -19.9 with seed 1 and 1000 updates); `imtl-g` and `nash-mtl` come to -0.6 -0.4
-3.3 and -1.5 -0.3 -3.4.
"""


def learn_scales(
    agent: str, aggregator: str, normalizer: str, rollouts: int | None, seed: int
) -> tuple[PointMass, EvaluationResult]:
    suite = point_mass("point-mass-scales")
    classes = {"aggregator": aggregators.get(aggregator), "normalizer": normalizers.get(normalizer)}
    parts = SMALL_MLP | classes | {"seed": seed}
    if agent == "sac":
        # Temperatures are in reward units, and advantages normalised per task would hide the scales of PPO's.
        return suite, learn(suite, 1400, parts, initial_alpha=1.0, alpha_learning_rate=5e-2)
    return suite, learn_by_ppo(suite, rollouts or 20, parts, normalize_advantages=False)


SEEDS = [1, pytest.param(2, marks=pytest.mark.full)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("agent", "aggregator", "normalizer", "rollouts"), BALANCED)
def test_rewards_that_differ_by_100_are_balanced(
    agent: str, aggregator: str, normalizer: str, rollouts: int | None, seed: int
) -> None:
    suite, result = learn_scales(agent, aggregator, normalizer, rollouts, seed)
    assert solved(suite, result) == [True] * 3, result.mean_returns


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("agent", ["sac", "ppo"])
def test_the_mean_of_the_losses_misses_the_task_of_small_rewards(agent: str, seed: int) -> None:
    suite, result = learn_scales(agent, "mean", "none", None, seed)
    assert not solved(suite, result)[0], result.mean_returns


@pytest.mark.parametrize("seed", SEEDS)
def test_loss_weights_of_a_scheduler_balance_rewards_of_known_scales(seed: int) -> None:
    # A value loss grows with the square of the rewards.
    suite = point_mass("point-mass-scales")
    weights = tuple(goal.reward_scale**-2 for goal in suite.goals)
    scheduler = Fixed(suite.spec, Fixed.Config(mode="weight", weights=weights), seed)
    result = learn_by_ppo(suite, 20, SMALL_MLP | {"seed": seed}, scheduler, normalize_advantages=False)
    assert solved(suite, result) == [True] * 3, result.mean_returns


@pytest.mark.full
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize(("name", "parts"), PPO_CASES)
def test_ppo_learns_from_every_seed(name: str, parts: dict[str, Any], seed: int) -> None:
    suite = point_mass(name)
    result = learn_by_ppo(suite, 40, parts | {"seed": seed})
    assert (result.mean_returns >= optimum(suite) - MARGIN).all(), result.mean_returns


def distral(num_columns: int, alpha: float = 0.5) -> dict[str, Any]:
    """Distral for rewards of the order of 1."""
    return {"policy": Distral, "policy_config": Distral.Config(num_columns=num_columns, distral_alpha=alpha)}


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        pytest.param("point-mass-related-discrete", distral(num_columns=2), id="discrete, two columns"),
        pytest.param("point-mass-related", distral(num_columns=2), id="two columns", marks=pytest.mark.full),
        pytest.param("point-mass-related", distral(num_columns=1), id="one column", marks=pytest.mark.full),
    ],
)
def test_sac_with_distral_learns_related_tasks(name: str, policy: dict[str, Any]) -> None:
    suite = point_mass(name)
    result = learn(suite, 300 if suite.discrete else 600, SMALL_MLP | policy)
    assert (result.mean_returns >= optimum(suite) - MARGIN).all(), result.mean_returns


@pytest.mark.parametrize(
    ("name", "policy", "settings"),
    [
        # The product of Gaussians is narrower than its factors, which therefore start wider.
        pytest.param("point-mass-related", distral(num_columns=2), {"initial_log_std": 0.65}, id="two columns"),
        pytest.param(
            "point-mass-related-discrete", distral(1, alpha=1.0), {}, id="one column, KL only", marks=pytest.mark.full
        ),
        pytest.param("point-mass-related-discrete", distral(2), {}, id="discrete", marks=pytest.mark.full),
    ],
)
def test_ppo_with_distral_learns_related_tasks(name: str, policy: dict[str, Any], settings: dict[str, Any]) -> None:
    suite = point_mass(name)
    result = learn_by_ppo(suite, 16, SMALL_MLP | policy, **settings)
    assert (result.mean_returns >= optimum(suite) - MARGIN).all(), result.mean_returns


@pytest.mark.full
@pytest.mark.parametrize("seed", range(1, 4))
def test_networks_of_their_own_learn_no_less_when_distral_ties_them(seed: int) -> None:
    # No more is asserted: what it gains in these suites is within the spread of seeds.
    suite = point_mass("point-mass-related-discrete")
    parts = {"architecture": Separate, "architecture_config": Separate.Config(width=64, depth=2), "seed": seed}
    alone = learn_by_ppo(suite, 20, parts)
    tied = learn_by_ppo(suite, 20, parts | distral(num_columns=1))
    assert tied.mean_returns.mean() >= alone.mean_returns.mean() - MARGIN / 2
