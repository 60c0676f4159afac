"""The losses of soft actor-critic against numbers worked by hand, with critics and policies that are constants.

Shapes: B batch, A action, M tasks, K critics.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtrl.encoders import Encoder
from mtrl.networks import Output, PolicyArchitecture
from mtrl.networks.hard_sharing.mlp import MLP
from mtrl.normalization import ReturnNormalizer
from mtrl.normalization.return_scale import ReturnScale
from tests.agents.constants import (
    DISCRETE,
    LOG_PROB,
    STANDARD_GAUSSIAN,
    batch_of,
    make_zero,
    sac,
    set_alpha,
    with_constants,
    with_target,
)


def test_only_termination_ends_the_return_a_truncated_step_still_bootstraps() -> None:
    agent = with_constants(sac(discount=0.9), STANDARD_GAUSSIAN, [[3.0], [2.0]])
    set_alpha(agent, [0.5, 1.0, 2.0])
    batch = batch_of(
        [0, 0, 0, 0, 1, 2],
        reward=torch.tensor([1.0, 1.0, 1.0, 1.0, -4.0, 5.0]),
        terminated=torch.tensor([False, True, False, True, False, False]),
        truncated=torch.tensor([False, False, True, True, False, False]),
    )
    # The smaller target critic gives 12, the entropy adds -alpha log pi.
    future = [0.9 * (12 - alpha * LOG_PROB) for alpha in (0.5, 1.0, 2.0)]
    expected = [1 + future[0], 1, 1 + future[0], 1, -4 + future[1], 5 + future[2]]
    assert agent.bellman_target(batch).tolist() == pytest.approx(expected, rel=1e-6)


def test_the_target_uses_the_action_of_the_noise_in_the_batch() -> None:
    agent = with_constants(sac(), [0.3, -0.2, 0.1, -0.4], [[3.0], [2.0]])
    noise = torch.tensor([[0.5, -1.0]])
    log_prob = 0.0
    for mean, log_std, draw in ((0.3, 0.1, 0.5), (-0.2, -0.4, -1.0)):
        action = math.tanh(mean + math.exp(log_std) * draw)
        log_prob += -0.5 * draw**2 - log_std - 0.5 * math.log(2 * math.pi) - math.log(1 - action**2)
    target = agent.bellman_target(batch_of([1], noise={"next_action": noise}))
    assert target.item() == pytest.approx(0.99 * (12 - log_prob), rel=1e-6)


def test_the_critic_loss_is_a_mean_over_the_ensemble_and_within_each_task() -> None:
    agent = with_constants(sac(discount=0.0, num_critics=3), STANDARD_GAUSSIAN, [[1.0], [2.0], [4.0]])
    batch = batch_of([0, 0, 1], reward=torch.tensor([0.0, 1.0, 3.0]))
    result = agent.critic_losses(agent.critic_group.parameters, with_target(agent, batch))
    # Row 0: (1 + 4 + 16) / 3, row 1: (0 + 1 + 9) / 3, row 2: (4 + 1 + 1) / 3; task 2 has no row.
    assert result.losses.tolist() == pytest.approx([(7 + 10 / 3) / 2, 2.0, 0.0])
    assert result.metrics["q_value"].tolist() == pytest.approx([7 / 3] * 3)


def test_the_actor_loss_is_temperature_times_log_probability_minus_the_smaller_value() -> None:
    agent = with_constants(sac(), STANDARD_GAUSSIAN, [[3.0], [2.0]])
    set_alpha(agent, [0.5, 1.0, 2.0])
    result = agent.actor_losses(agent.actor_group.parameters, batch_of([0, 0, 2]))
    assert result.losses.tolist() == pytest.approx([0.5 * LOG_PROB - 2, 0.0, 2 * LOG_PROB - 2])
    assert result.metrics["log_prob"].tolist() == pytest.approx([LOG_PROB] * 3)


def test_the_smallest_critic_counts_for_every_sample_and_action() -> None:
    agent = with_constants(sac(DISCRETE), [0.0] * 4, [[1.0, 5.0, 2.0, 7.0], [3.0, 2.0, 2.5, 8.0]])
    batch = batch_of([0, 1])
    assert agent.min_q(agent.critics, batch.observation, None, batch, "critic").tolist() == [[1.0, 2.0, 2.0, 7.0]] * 2


def test_a_temperature_rises_while_the_entropy_is_below_its_target() -> None:
    agent = sac(alpha_learning_rate=0.1)
    set_alpha(agent, [math.e, 1.0, math.exp(-2)])
    before = agent.temperatures.log_alpha.detach().clone()
    # The target entropy is -2: log pi of 3 means an entropy of -3, below it; 1 means -1, above it.
    metrics = agent.temperatures.step(torch.tensor([4.0, 2.0, 1.0]), torch.tensor([0, 0, 2]))
    excess = [3.0 - 2.0, 0.0, 1.0 - 2.0]
    assert metrics["alpha_loss"].tolist() == pytest.approx([-1 * excess[0], 0.0, 2 * excess[2]])
    assert agent.temperatures.log_alpha.grad.tolist() == pytest.approx([-excess[0], 0.0, -excess[2]])
    # Adam's first step is the learning rate in the gradient's direction.
    assert (agent.temperatures.log_alpha - before).tolist() == pytest.approx([0.1, 0.0, -0.1], abs=1e-6)


def test_temperatures_start_where_they_are_told_to() -> None:
    assert sac().temperatures(torch.arange(3)).tolist() == [1.0, 1.0, 1.0]
    assert sac(initial_alpha=0.2).temperatures(torch.arange(3)).tolist() == pytest.approx([0.2] * 3)


def test_discrete_losses_are_exact_sums_over_the_legal_actions() -> None:
    logits, critics = [0.5, -1.0, 0.0, 2.0], [[1.0, 2.0, 3.0, 9.0], [4.0, 1.0, 2.0, 8.0]]
    agent = with_constants(sac(DISCRETE, discount=0.9), logits, critics)
    set_alpha(agent, [0.5, 2.0, 1.0])
    batch = batch_of([0, 1], action=torch.tensor([3, 1]), reward=torch.tensor([1.0, -1.0]))
    value, log_prob = {}, {}
    for task, actions in ((0, range(4)), (1, range(3))):  # odd tasks lack the last action
        total = sum(math.exp(logits[action]) for action in actions)
        probs = [math.exp(logits[action]) / total for action in actions]
        value[task] = sum(p * min(critics[0][a], critics[1][a]) for p, a in zip(probs, actions, strict=True))
        log_prob[task] = sum(p * math.log(p) for p in probs)
    target = agent.bellman_target(batch).tolist()
    expected = [1 + 0.9 * (value[0] + 10 - 0.5 * log_prob[0]), -1 + 0.9 * (value[1] + 10 - 2 * log_prob[1])]
    assert target == pytest.approx(expected, rel=1e-6)
    actor = agent.actor_losses(agent.actor_group.parameters, batch).losses.tolist()
    assert actor == pytest.approx([0.5 * log_prob[0] - value[0], 2 * log_prob[1] - value[1], 0.0], rel=1e-5)
    critic = agent.critic_losses(agent.critic_group.parameters, with_target(agent, batch)).losses.tolist()
    chosen = [[9.0, 8.0], [2.0, 1.0]]
    errors = [sum((q - y) ** 2 for q in qs) / 2 for qs, y in zip(chosen, expected, strict=True)]
    assert critic == pytest.approx([*errors, 0.0], rel=1e-5)


def test_target_entropies_follow_the_action_space() -> None:
    assert sac().temperatures.target_entropy.tolist() == [-2.0] * 3
    assert sac(target_entropy_scale=0.5).temperatures.target_entropy.tolist() == [-1.0] * 3
    expected = [0.89 * math.log(4), 0.89 * math.log(3), 0.89 * math.log(4)]
    assert sac(DISCRETE).temperatures.target_entropy.tolist() == pytest.approx(expected)


def test_temperature_task_weights_are_m_softmax_of_minus_log_alpha() -> None:
    plain, weighted = sac(), sac(temperature_task_weights=True)
    batch = batch_of([0, 1, 2], reward=torch.tensor([1.0, 2.0, 3.0]))
    for agent in (plain, weighted):
        set_alpha(agent, [0.5, 1.0, 4.0])
    # softmax(-log alpha) is 1/alpha normalised: 2, 1 and 1/4 of 13/4.
    weights = torch.tensor([24.0, 12.0, 3.0]) / 13
    for name in ("critic", "actor"):
        losses = [
            getattr(agent, f"{name}_losses")(agent.groups()[name].parameters, with_target(agent, batch)).losses
            for agent in (plain, weighted)
        ]
        torch.testing.assert_close(losses[1], weights * losses[0])
    temperature_losses = [
        agent.temperatures.step(torch.ones(3), batch.task_ids)["alpha_loss"] for agent in (plain, weighted)
    ]
    assert torch.equal(*temperature_losses)  # the temperatures' own loss is not weighted


class Regularised(PolicyArchitecture):
    """A linear layer with an auxiliary loss per task: its bias squared, times the task's number."""

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Any):
        super().__init__(in_features, out_features, num_tasks, config)
        self.head = nn.Linear(in_features, out_features)
        self.num_tasks = num_tasks

    def forward(self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None) -> Output:
        losses = self.head.bias.square().sum() * torch.arange(self.num_tasks)
        return Output(self.head(features), losses={"bias": losses})


def test_auxiliary_losses_of_the_architecture_reach_loss_and_gradient() -> None:
    agent = sac(components={"architecture": Regularised}, discount=0.0)
    with_constants(agent, STANDARD_GAUSSIAN, [[1.0], [3.0]])
    batch = batch_of([0, 1, 2])
    critic = agent.critic_group.step(agent.critic_losses, with_target(agent, batch)).losses
    # (1 + 9) / 2 from the errors; the auxiliary losses are averaged over the ensemble as well.
    assert critic.tolist() == pytest.approx([5.0 + 5.0 * task for task in range(3)])
    assert agent.critic_group.parameters["ensemble.members.0.head.bias"].grad is not None
    plain = sac(discount=0.0)
    with_constants(plain, [1.0, 0.0, 0.0, 0.0], [[1.0], [3.0]])
    with_constants(agent, [1.0, 0.0, 0.0, 0.0], [[1.0], [3.0]])  # the critics have learnt
    actor, without = (each.actor_group.step(each.actor_losses, batch).losses for each in (agent, plain))
    assert (actor - without).tolist() == pytest.approx([0.0, 1.0, 2.0], abs=1e-6)


def test_where_the_rewards_are_divided_temperatures_are_in_their_units() -> None:
    agent = sac(components={"normalizer": ReturnScale}, discount=0.9)
    with_constants(agent, STANDARD_GAUSSIAN, [[3.0], [2.0]])
    set_alpha(agent, [0.5, 1.0, 2.0])
    agent.normalizer.count.fill_(4)
    agent.normalizer.squares.copy_(torch.tensor([4.0, 16.0, 64.0]))  # scales 1, 2 and 4
    batch = batch_of([0, 1, 2], reward=torch.tensor([1.0, 2.0, 3.0]))
    # r / sigma + gamma (Q - alpha log pi), times sigma.
    expected = [
        reward + 0.9 * scale * (12 - alpha * LOG_PROB)
        for reward, scale, alpha in zip((1, 2, 3), (1, 2, 4), (0.5, 1.0, 2.0), strict=True)
    ]
    assert agent.bellman_target(batch).tolist() == pytest.approx(expected, rel=1e-6)
    actor = agent.actor_losses(agent.actor_group.parameters, batch).losses
    assert actor.tolist() == pytest.approx([alpha * LOG_PROB - 2 for alpha in (0.5, 1.0, 2.0)])


class Affine(ReturnNormalizer):
    """Fixed statistics: task i has scale 2^i and shift 10 i."""

    def __init__(self, num_tasks: int, config: Any, discount: float = 0.99):
        super().__init__(num_tasks, config, discount)
        self.sigma, self.mu = 2.0 ** torch.arange(num_tasks), 10.0 * torch.arange(num_tasks)

    def denormalize(self, values: Tensor, task_ids: Tensor) -> Tensor:
        return self.sigma[task_ids] * values + self.mu[task_ids]

    def normalize(self, returns: Tensor, task_ids: Tensor) -> Tensor:
        return (returns - self.mu[task_ids]) / self.sigma[task_ids]

    def scale(self, task_ids: Tensor) -> Tensor:
        return self.sigma[task_ids]


def test_a_normalizer_stands_between_network_units_and_rewards_and_temperatures_are_in_reward_units() -> None:
    agent = with_constants(sac(components={"normalizer": Affine}, discount=0.9), STANDARD_GAUSSIAN, [[3.0], [2.0]])
    set_alpha(agent, [0.5, 1.0, 2.0])
    batch = batch_of([0, 1, 2], reward=torch.tensor([1.0, 2.0, 3.0]))
    scales, shifts, alphas = [1, 2, 4], [0, 10, 20], [0.5, 1.0, 2.0]
    # r + gamma (sigma Q + mu - alpha log pi): both in reward units.
    targets = [
        reward + 0.9 * (scale * 12 + shift - alpha * LOG_PROB)
        for reward, scale, shift, alpha in zip((1, 2, 3), scales, shifts, alphas, strict=True)
    ]
    assert agent.bellman_target(batch).tolist() == pytest.approx(targets, rel=1e-6)
    normalised = [(y - shift) / scale for y, shift, scale in zip(targets, shifts, scales, strict=True)]
    expected = [((3 - y) ** 2 + (2 - y) ** 2) / 2 for y in normalised]
    result = agent.critic_losses(agent.critic_group.parameters, with_target(agent, batch))
    assert result.losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert result.metrics["q_value"].tolist() == pytest.approx(
        [2.5 * s + m for s, m in zip(scales, shifts, strict=True)]
    )
    actor = agent.actor_losses(agent.actor_group.parameters, batch).losses
    # (alpha log pi - (sigma Q + mu)) / sigma, without the constant mu / sigma.
    expected = [alpha * LOG_PROB / scale - 2 for alpha, scale in zip(alphas, scales, strict=True)]
    assert actor.tolist() == pytest.approx(expected)


class Linear(Encoder):
    """Features that are trained."""

    def __init__(self, observation_space: Any, config: Any):
        super().__init__(observation_space, config)
        self.out_features = 4
        self.layer = nn.Linear(5, 4)

    def forward(self, observation: Tensor) -> Tensor:
        return self.layer(observation)


def test_the_critics_train_the_encoder_and_the_actor_does_not() -> None:
    agent = sac(components={"encoder": Linear}, target_rate=0.5)
    batch = batch_of([0, 1, 2], reward=torch.ones(3))
    before = agent.critics.encoder.layer.weight.clone()
    agent.actor_group.step(agent.actor_losses, batch)
    assert agent.critics.encoder.layer.weight.grad is None
    assert torch.equal(agent.critics.encoder.layer.weight, before)
    agent.learn(batch)
    after = agent.critics.encoder.layer.weight
    assert not torch.equal(after, before)
    torch.testing.assert_close(agent.target_critics.encoder.layer.weight, (before + after) / 2)


def test_the_actor_sees_the_online_encoder_and_the_target_critics_their_own() -> None:
    plain = MLP.Config(depth=0, task_input="none")
    agent = sac(components={"encoder": Linear, "architecture_config": plain}, discount=0.5)
    for encoder, value in ((agent.critics.encoder, 2.0), (agent.target_critics.encoder, 5.0)):
        make_zero(encoder)
        encoder.layer.bias.data[0] = value
    # Every critic gives the first feature, and the first mean of the policy is a tenth of it.
    for network in (*agent.critics.ensemble.members, *agent.target_critics.ensemble.members):
        make_zero(network)
        network.head.weight.data[0, 0] = 1.0
    make_zero(agent.policy.architecture)
    agent.policy.architecture.head.weight.data[0, 0] = 0.1
    batch = batch_of([0, 1, 2])
    log_prob = LOG_PROB - math.log(1 - math.tanh(0.2) ** 2)
    assert agent.bellman_target(batch).tolist() == pytest.approx([0.5 * (5 - log_prob)] * 3)
    result = agent.critic_losses(agent.critic_group.parameters, with_target(agent, batch))
    assert result.metrics["q_value"].tolist() == [2.0] * 3
    actor = agent.actor_losses(agent.actor_group.parameters, batch).losses
    assert actor.tolist() == pytest.approx([log_prob - 2] * 3)
