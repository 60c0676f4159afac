"""Distral against numbers worked by hand, with columns and critics that are constants.

Shapes: B batch, A action, M tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import agents
import envs
from agents.ppo import PPO
from agents.sac import SAC
from mtrl.agent import Agent, Components
from mtrl.aggregation import task_gradients
from mtrl.config.schema import resolve_config
from mtrl.errors import BadInput
from mtrl.networks import architectures
from mtrl.networks.hard_sharing.mlp import MLP
from mtrl.normalization.popart import PopArt
from mtrl.normalization.return_scale import ReturnScale
from mtrl.policies.distral import Distral
from mtrl.testing import check_agent
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from mtrl.types import ActionStep, Batch
from tests.agents.constants import CONTINUOUS, DISCRETE, batch_of, make_constant

CONFIGS: dict[type[Agent], Any] = {
    SAC: SAC.Config(batch_size=24, learning_starts=8, discount=0.9, max_grad_norm=1e6),
    PPO: PPO.Config(rollout_steps=4, epochs=1, minibatches=2, discount=0.0, entropy_coefficient=0.5, max_grad_norm=1e6),
}
SUITES = pytest.mark.parametrize("suite", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
SMALL = MLP.Config(width=8, depth=1)
ALPHA, BETA = 0.25, 4.0
C_KL, C_ENT = 1 / 16, 3 / 16

# Task 1 lacks the last of the four actions, tasks 0 and 2 have all.
COMMON, OWN = [math.log(2), 0.0, 0.0, math.log(4)], [0.0, math.log(3), 0.0, math.log(2)]
P_COMMON = {0: [2 / 8, 1 / 8, 1 / 8, 4 / 8], 1: [2 / 4, 1 / 4, 1 / 4, 0.0]}
P_OWN = {0: [1 / 7, 3 / 7, 1 / 7, 2 / 7], 1: [1 / 5, 3 / 5, 1 / 5, 0.0]}


def distral(
    cls: type[Agent], suite: Any, num_columns: int = 1, components: dict[str, Any] | None = None, **config: Any
) -> Any:
    settings = Distral.Config(**{"num_columns": num_columns, "distral_alpha": ALPHA, "distral_beta": BETA} | config)
    return make_agent(cls, CONFIGS[cls], suite.spec, policy=Distral, policy_config=settings, **components or {})


def with_columns(agent: Any, common: Sequence[float], task: Sequence[float]) -> Any:
    """The agent with constant columns."""
    policy = agent.policy if isinstance(agent, SAC) else agent.networks.policy
    make_constant(policy.common, common)
    make_constant(policy.task, task)
    agent.use_last_weights()
    return agent


def with_critics(agent: SAC, values: Sequence[float]) -> SAC:
    """The agent with constant critics, all alike."""
    for member in (*agent.critics.ensemble.members, *agent.target_critics.ensemble.members):
        make_constant(member, values)
    return agent


def out(policy: Distral, tasks: Sequence[int]) -> Any:
    return policy(torch.ones(len(tasks), 5), torch.tensor(tasks))


def cost(own: float, common: float) -> float:
    """(1/b) log pi_i - (a/b) log pi_0."""
    return math.log(own) / BETA - ALPHA / BETA * math.log(common)


def divergence(own: Sequence[float], common: Sequence[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(own, common, strict=True) if p)


def mean_cost(own: Sequence[float], common: Sequence[float]) -> float:
    return sum(p * cost(p, q) for p, q in zip(own, common, strict=True) if p)


def test_one_column_is_the_task_policy() -> None:
    policy = with_columns(distral(SAC, DISCRETE), COMMON, OWN).policy
    output = out(policy, [0, 1])
    probs = output.distribution.log_probs.exp()
    torch.testing.assert_close(probs, torch.tensor([P_OWN[0], P_OWN[1]]))
    torch.testing.assert_close(output.prior.log_probs.exp(), torch.tensor([P_COMMON[0], P_COMMON[1]]))
    expected = [divergence(P_OWN[task], P_COMMON[task]) for task in (0, 1)]
    assert output.network.diagnostics["kl"].tolist() == pytest.approx(expected, rel=1e-5)
    assert output.distillation().tolist() == pytest.approx([C_KL * x for x in expected], rel=1e-5)


def test_two_columns_add_their_logits() -> None:
    policy = with_columns(distral(SAC, DISCRETE, 2), COMMON, OWN).policy
    output = out(policy, [0, 1])
    # a h_0 + b f_i = h_0 / 4 + 4 f_i, so the odds are 2^(1/4), 3^4, 1 and 4^(1/4) 2^4.
    odds = [2**0.25, 81.0, 1.0, 4**0.25 * 16]
    for row, actions in enumerate((4, 3)):
        expected = [odd / sum(odds[:actions]) for odd in odds[:actions]]
        assert output.distribution.log_probs.exp()[row, :actions].tolist() == pytest.approx(expected, rel=1e-5)
    assert output.distribution.log_probs.exp()[1, 3] == 0


@pytest.mark.parametrize("cls", [SAC, PPO])
def test_two_columns_multiply_their_gaussians(cls: type[Agent]) -> None:
    agent = distral(cls, CONTINUOUS, 2)
    if cls is SAC:  # means 1 and 0, then log standard deviations log 2 and 0; and 3, 2, 0, log 1/2
        policy = with_columns(agent, [1.0, 0.0, math.log(2), 0.0], [3.0, 2.0, 0.0, math.log(0.5)]).policy
    else:
        policy = with_columns(agent, [1.0, 0.0], [3.0, 2.0]).networks.policy
        with torch.no_grad():
            policy.common_head.log_std.copy_(torch.tensor([[math.log(2), 0.0]]))
            policy.head.log_std.copy_(torch.tensor([0.0, math.log(0.5)]).expand(3, 2))
    # Precisions a / s_0^2 + b / s_f^2 = (1/4)/4 + 4/1 and (1/4)/1 + 4/(1/4).
    precision = [1 / 16 + 4, 1 / 4 + 16]
    mean = [(1 / 16 * 1 + 4 * 3) / precision[0], (1 / 4 * 0 + 16 * 2) / precision[1]]
    found = out(policy, [2]).distribution
    assert found.mean[0].tolist() == pytest.approx(mean, rel=1e-5)
    assert (-2 * found.log_std[0]).exp().tolist() == pytest.approx(precision, rel=1e-5)
    assert out(policy, [2]).prior.mean[0].tolist() == [1.0, 0.0]


def test_soft_values_subtract_the_expected_regularization() -> None:
    agent = with_critics(with_columns(distral(SAC, DISCRETE), COMMON, OWN), [1.0, 2.0, 3.0, 4.0])
    batch = batch_of([0, 1], action=torch.tensor([0, 0]), reward=torch.tensor([5.0, 6.0]))
    q = {0: sum(p * v for p, v in zip(P_OWN[0], (1, 2, 3, 4), strict=True)), 1: (1 + 6 + 3) / 5}
    costs = {task: mean_cost(P_OWN[task], P_COMMON[task]) for task in (0, 1)}
    target = [5 + 0.9 * (q[0] - costs[0]), 6 + 0.9 * (q[1] - costs[1])]
    assert agent.bellman_target(batch).tolist() == pytest.approx(target, rel=1e-5)
    distillation = {task: C_KL * divergence(P_OWN[task], P_COMMON[task]) for task in (0, 1)}
    losses = agent.actor_group.step(agent.actor_losses, batch).losses.tolist()
    assert losses == pytest.approx([*(costs[task] - q[task] + distillation[task] for task in (0, 1)), 0.0], rel=1e-5)


def test_soft_values_of_gaussians_subtract_the_samples_entropy_and_the_exact_divergence() -> None:
    agent = with_columns(distral(SAC, CONTINUOUS), [1.0, 0.0, math.log(2), 0.0], [0.0, 0.0, 0.0, 0.0])
    agent = with_critics(agent, [2.0])
    # The sample is at the mean, where log pi = -log 2 pi. KL of N(0, 1) from N(1, 4), the other dimension agrees.
    kl = 0.5 * (1 / 4 + 1 / 4 - 1) + math.log(2)
    regularization = C_ENT * -math.log(2 * math.pi) + C_KL * kl
    assert agent.bellman_target(batch_of([1])).tolist() == pytest.approx([0.9 * (2 - regularization)], rel=1e-5)
    losses = agent.actor_group.step(agent.actor_losses, batch_of([1])).losses.tolist()
    assert losses == pytest.approx([0.0, regularization - 2 + C_KL * kl, 0.0], rel=1e-5)


@SUITES
@pytest.mark.parametrize("num_columns", [1, 2])
def test_the_regularization_of_samples_is_on_average_the_expected_one(suite: Any, num_columns: int) -> None:
    columns = (COMMON, OWN) if suite is DISCRETE else ([0.5, -0.2], [0.1, 0.3])
    policy = with_columns(distral(PPO, suite, num_columns), *columns).networks.policy
    output = out(policy, [1] * 200_000)
    noise = policy.head.sample_noise(200_000, torch.Generator().manual_seed(1))
    found = output.regularization(output.distribution.sample(noise))
    entropy = output.distribution.entropy()
    expected = output.expected_regularization(-entropy, torch.tensor(policy.temperature))
    assert found.mean().item() == pytest.approx(expected[0].item(), abs=2e-3)


def rollout_of(agent: PPO, action_step: ActionStep, tasks: np.ndarray, reward: Tensor) -> Batch:
    """One vector step (1, N) of what the agent did."""
    num_samples = len(tasks)
    columns = {name: torch.from_numpy(value) for name, value in action_step.extras.items()}
    batch = batch_of(
        tasks.tolist(), reward=reward, action=torch.from_numpy(action_step.action), noise={}, extras=columns
    )
    return batch.map_columns(lambda value: value.view(1, num_samples, *value.shape[1:]))


def test_ppo_learns_from_the_regularized_reward() -> None:
    agent = with_columns(distral(PPO, DISCRETE), COMMON, OWN)
    tasks = np.arange(30) % 2
    action_step = agent.act(np.ones((30, 5), np.float32), tasks, explore=True)
    reward = torch.arange(30.0)
    batch = agent.with_advantages(rollout_of(agent, action_step, tasks, reward))
    # r + (a/b) log pi_0 - (1/b) log pi_i of the actions taken; the discount is 0.
    regularized = [
        float(reward[row]) - cost(P_OWN[task][action], P_COMMON[task][action])
        for row, (task, action) in enumerate(zip(tasks, action_step.action, strict=True))
    ]
    assert len(set(action_step.action)) > 2
    assert batch.extras["return"].tolist() == pytest.approx(regularized, rel=1e-5)


def test_ppo_regularizes_the_sample_before_it_was_clipped_to_the_box() -> None:
    agent = with_columns(distral(PPO, CONTINUOUS), [1.0, 0.0], [0.0, 0.0])
    tasks = np.zeros(40, np.int64)
    action_step = agent.act(np.ones((40, 5), np.float32), tasks, explore=True)
    sample = torch.from_numpy(action_step.extras["sample"])
    log_own = -0.5 * sample.square().sum(1) - math.log(2 * math.pi)
    log_common = -0.5 * ((sample[:, 0] - 1).square() + sample[:, 1].square()) - math.log(2 * math.pi)
    assert (sample.abs() > 1).any()
    torch.testing.assert_close(
        torch.from_numpy(action_step.extras["regularization"]), log_own / BETA - ALPHA / BETA * log_common
    )


def test_popart_leaves_the_coefficients_in_reward_units() -> None:
    agent = with_columns(distral(PPO, DISCRETE, components={"normalizer": PopArt}), COMMON, OWN)
    agent.normalizer.mean_square.copy_(torch.tensor([9.0, 100.0, 1.0]))  # standard deviations 3 and 10
    tasks = np.array([0, 1])
    action_step = agent.act(np.ones((2, 5), np.float32), tasks, explore=True)
    batch = agent.with_advantages(rollout_of(agent, action_step, tasks, torch.tensor([5.0, 6.0])))
    costs = [cost(P_OWN[task][action_step.action[task]], P_COMMON[task][action_step.action[task]]) for task in (0, 1)]
    assert batch.extras["return"].tolist() == pytest.approx([5 - costs[0], 6 - costs[1]], rel=1e-5)


def test_where_the_rewards_are_divided_the_coefficients_are_in_their_units() -> None:
    agent = with_columns(distral(PPO, DISCRETE, components={"normalizer": ReturnScale}), COMMON, OWN)
    agent.normalizer.count.fill_(2)
    agent.normalizer.squares.copy_(torch.tensor([18.0, 200.0, 2.0]))  # standard deviations 3 and 10
    tasks = np.array([0, 1])
    action_step = agent.act(np.ones((2, 5), np.float32), tasks, explore=True)
    batch = agent.with_advantages(rollout_of(agent, action_step, tasks, torch.tensor([5.0, 6.0])))
    costs = [cost(P_OWN[task][action_step.action[task]], P_COMMON[task][action_step.action[task]]) for task in (0, 1)]
    assert batch.extras["return"].tolist() == pytest.approx([5 - 3 * costs[0], 6 - 10 * costs[1]], rel=1e-5)


def test_soft_values_under_popart_subtract_the_regularization_in_reward_units() -> None:
    agent = distral(SAC, DISCRETE, components={"normalizer": PopArt})
    agent = with_critics(with_columns(agent, COMMON, OWN), [1.0, 2.0, 3.0, 4.0])
    agent.normalizer.mean.copy_(torch.tensor([4.0, 0.0, 0.0]))
    agent.normalizer.mean_square.copy_(torch.tensor([25.0, 100.0, 1.0]))  # standard deviations 3 and 10
    batch = batch_of([0, 1], action=torch.tensor([0, 0]), reward=torch.tensor([5.0, 6.0]))
    q = {0: sum(p * v for p, v in zip(P_OWN[0], (1, 2, 3, 4), strict=True)), 1: (1 + 6 + 3) / 5}
    costs = {task: mean_cost(P_OWN[task], P_COMMON[task]) for task in (0, 1)}
    # r + gamma (sigma Q + mu - cost); the actor's loss is (cost + distillation) / sigma - Q.
    target = [5 + 0.9 * (3 * q[0] + 4 - costs[0]), 6 + 0.9 * (10 * q[1] - costs[1])]
    assert agent.bellman_target(batch).tolist() == pytest.approx(target, rel=1e-5)
    losses = agent.actor_losses(agent.actor_group.parameters, batch).losses.tolist()
    costs = {task: costs[task] + C_KL * divergence(P_OWN[task], P_COMMON[task]) for task in (0, 1)}
    assert losses == pytest.approx([costs[0] / 3 - q[0], costs[1] / 10 - q[1], 0.0], rel=1e-5)


def test_ppo_gives_no_entropy_bonus() -> None:
    agent = with_columns(distral(PPO, DISCRETE), COMMON, OWN)
    make_constant(agent.networks.value.members[0], [0.0])
    rows = {"log_prob": torch.tensor([math.log(P_OWN[0][1])]), **dict.fromkeys(("value", "return"), torch.zeros(1))}
    batch = batch_of([0], action=torch.tensor([1]), noise={}, extras=rows | {"advantage": torch.tensor([2.0])})
    result = agent.group.step(agent.losses, batch)
    assert result.losses[0].item() == pytest.approx(-2 + C_KL * divergence(P_OWN[0], P_COMMON[0]), rel=1e-5)
    assert result.metrics["entropy"].item() == pytest.approx(-sum(p * math.log(p) for p in P_OWN[0]), rel=1e-5)


@pytest.mark.parametrize("num_columns", [1, 2])
def test_the_common_policy_is_distilled_from_the_task_policies(num_columns: int) -> None:
    policy = with_columns(distral(PPO, DISCRETE, num_columns), COMMON, OWN).networks.policy
    output = out(policy, [0, 0, 1])
    common, own = output.prior.log_probs.exp(), output.distribution.log_probs.exp().detach()
    loss = output.distillation().sum()
    gradients = torch.autograd.grad(loss, [policy.common.head.bias, policy.task.head.bias], allow_unused=True)
    # The paper's (a/b) sum_a (pi_i - pi_0) by the logits, descended; nothing reaches the task column.
    torch.testing.assert_close(gradients[0], C_KL * (common - own).sum(0))
    assert gradients[1] is None


def test_a_common_gaussian_takes_the_moments_of_the_task_policies() -> None:
    policy = with_columns(distral(SAC, CONTINUOUS), [1.0, 0.0, math.log(2), 0.0], [3.0, 0.0, 0.0, 0.0]).policy
    loss = out(policy, [2]).distillation().sum()
    (gradient,) = torch.autograd.grad(loss, [policy.common.head.bias])
    # By the mean (m_0 - m) / s_0^2 = -2/4, by the log deviation 1 - (s^2 + (m - m_0)^2) / s_0^2 = 1 - 5/4.
    assert gradient.tolist() == pytest.approx([C_KL * -2 / 4, 0.0, C_KL * (1 - 5 / 4), 0.0], rel=1e-5)


def test_two_columns_both_learn_from_the_task_and_the_common_one_by_distillation_too() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    agent = with_critics(with_columns(distral(SAC, DISCRETE, 2), COMMON, OWN), values)
    policy = agent.policy
    output = out(policy, [0])
    own, common = (d.log_probs.exp().detach()[0] for d in (output.distribution, output.prior))
    agent.actor_group.step(agent.actor_losses, batch_of([0]))
    # By a logit of pi_i, with pi_0 held fixed: pi (cost - mean cost), where cost includes -Q.
    costs = own.log() / BETA - ALPHA / BETA * common.log() - torch.tensor(values)
    by_logit = own * (costs - (own * costs).sum())
    torch.testing.assert_close(policy.task.head.bias.grad, BETA * by_logit, rtol=1e-4, atol=1e-6)
    distillation = C_KL * (common - own)
    torch.testing.assert_close(policy.common.head.bias.grad, ALPHA * by_logit + distillation, rtol=1e-4, atol=1e-6)


def test_kl_only_pays_nothing_for_a_policy_like_the_common_one() -> None:
    for cls in (SAC, PPO):
        agent = with_columns(distral(cls, DISCRETE, distral_alpha=1.0), OWN, OWN)
        policy = agent.policy if isinstance(agent, SAC) else agent.networks.policy
        assert policy.temperature == 0
        output = out(policy, [0, 1, 2])
        assert output.regularization(torch.tensor([0, 1, 2])).tolist() == [0.0] * 3
        assert output.expected_regularization(torch.tensor([-1.0] * 3), torch.zeros(3)).tolist() == [0.0] * 3


def test_no_temperature_is_learnt() -> None:
    agent = distral(SAC, CONTINUOUS)
    metrics = agent.learn(batch_of([0, 1, 2]))
    assert not {"alpha", "alpha_loss"} & set(metrics)
    assert agent.state()["alpha_optimizer"] == {}
    assert agent.temperatures(torch.tensor([0, 2])).tolist() == pytest.approx([C_ENT, C_ENT])


@pytest.mark.parametrize("cls", [SAC, PPO])
def test_an_evaluation_can_play_the_common_policy(cls: type[Agent]) -> None:
    agent = with_columns(distral(cls, DISCRETE), COMMON, OWN)
    observation, tasks = np.ones((3, 5), np.float32), np.arange(3)
    assert agent.act(observation, tasks, explore=False).action.tolist() == [1, 1, 1]
    agent.play_part("common")
    # The common policy does not see the task, but only legal actions are played.
    assert agent.act(observation, tasks, explore=False).action.tolist() == [3, 0, 3]
    with pytest.raises(BadInput, match="policy_part 'commn': the policy of this run has only common"):
        agent.play_part("commn")
    with pytest.raises(BadInput, match="policy_part 'common': the policy of this run has no parts"):
        make_agent(cls, cls.Config(), DISCRETE.spec).play_part("common")


def test_the_protocol_plays_the_task_policy() -> None:
    observation, tasks = np.ones((3, 5), np.float32), np.arange(3)
    for cls in (SAC, PPO):
        for num_columns, best in ((1, [1, 1, 1]), (2, [3, 0, 3])):
            own = OWN if num_columns == 1 else [0.0, 0.0, 0.0, 0.0]
            agent = with_columns(distral(cls, DISCRETE, num_columns), COMMON, own)
            assert agent.act(observation, tasks, explore=False).action.tolist() == best


@pytest.mark.parametrize("num_columns", [1, 2])
@pytest.mark.parametrize("cls", CONFIGS)
def test_agents_keep_their_contract_with_distral(cls: type[Agent], num_columns: int) -> None:
    class Regularized(cls):  # type: ignore[misc, valid-type]
        def __init__(self, components: Components, config: Any):
            def column(in_features: int, out_features: int, *, num_tasks: int | None = None) -> MLP:
                return MLP(in_features, out_features, num_tasks or components.spec.num_tasks, SMALL)

            def policy(in_features: int, head: Any) -> Distral:
                return Distral(column, in_features, head, Distral.Config(num_columns=num_columns))

            super().__init__(replace(components, policy=policy), config)

    check_agent(Regularized, CONFIGS[cls])


@pytest.mark.parametrize("name", architectures.names())
def test_every_architecture_can_be_the_columns(name: str) -> None:
    cls = architectures.get(name)
    sizes = [field for field in cls.Config.__dataclass_fields__ if field.endswith(("width", "_size"))]
    components = {"architecture": cls, "architecture_config": cls.Config(**dict.fromkeys(sizes, 12))}
    for agent_type, suite, num_columns in ((SAC, CONTINUOUS, 2), (PPO, DISCRETE, 1)):
        agent = distral(agent_type, suite, num_columns, components)
        policy = agent.policy if isinstance(agent, SAC) else agent.networks.policy
        columns = {"common": policy.common, "task": policy.task}
        before = {name: nn.utils.parameters_to_vector(column.parameters()) for name, column in columns.items()}
        last = list(training_loop(make_train_state(agent, suite), 16))[-1]
        assert last.metrics, "it has not learnt yet"
        assert last.metrics["actor/kl"].shape == (3,)
        assert all(bool(torch.isfinite(values).all()) for values in last.metrics.values())
        for column_name, column in columns.items():
            assert not torch.equal(nn.utils.parameters_to_vector(column.parameters()), before[column_name])
        prior = out(policy, [0, 2]).prior  # of tasks with the same actions
        for values in vars(prior).values():
            torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-7)


@SUITES
@pytest.mark.parametrize("num_columns", [1, 2])
def test_gradients_of_the_tasks_in_one_pass_are_those_of_a_pass_per_task(suite: Any, num_columns: int) -> None:
    agent = distral(SAC, suite, num_columns)
    for parameter in agent.parameters():  # away from the start, where all is near zero
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    noise = torch.rand(6, 2 if suite is CONTINUOUS else 4, generator=torch.Generator().manual_seed(2))
    observation = torch.linspace(-1, 1, 30).view(6, 5)
    batch = batch_of([0, 0, 1, 1, 2, 2], observation=observation, noise={"action": noise})
    parameters = agent.actor_group.parameters
    together, alone = (task_gradients(agent.actor_losses, batch, parameters, 3, once) for once in (True, False))
    for name, gradient in together[0].items():
        torch.testing.assert_close(gradient, alone[0][name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(together[1].losses, alone[1].losses)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"distral_alpha": 0.0}, ["policy.distral_alpha", "0.0", "above 0 and at most 1"]),
        ({"distral_alpha": 1.5}, ["policy.distral_alpha", "1.5", "above 0 and at most 1"]),
        ({"distral_beta": 0.0}, ["policy.distral_beta", "above 0"]),
        ({"num_columns": 3}, ["policy.num_columns", "3", "1, 2"]),
        ({"alpha": 0.5}, ["policy.alpha", "distral_alpha"]),
    ],
)
def test_settings_beyond_their_range_are_refused(settings: dict[str, Any], parts: list[str]) -> None:
    agents.register()
    envs.register()
    with pytest.raises(BadInput) as caught:
        resolve_config({"suite": "point-mass", "policy": {"name": "distral", **settings}})
    assert all(part in str(caught.value) for part in parts), str(caught.value)
