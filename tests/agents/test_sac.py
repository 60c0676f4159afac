"""Soft actor-critic against numbers worked by hand, with critics and policies that are constants.

Shapes: B batch, A action, M tasks, K critics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.sac import SAC
from mtrl.agent import polyak_update
from mtrl.aggregation import JacobianAggregator, mean_per_task
from mtrl.aggregation.pcgrad import PCGrad
from mtrl.encoders import Encoder
from mtrl.errors import Diverged
from mtrl.networks import Output, PolicyArchitecture
from mtrl.networks.mlp import MLP
from mtrl.normalization import ReturnNormalizer
from mtrl.testing import check_agent
from mtrl.testing.agent import make_agent, make_train_state
from mtrl.testing.attributes import differences, leaves
from mtrl.trainer import train
from mtrl.types import Batch
from tests.counting import Player, counting_world

CONTINUOUS, DISCRETE = counting_world("counting"), counting_world("counting-discrete")
SMALL = {"batch_size": 24, "random_steps": 5}


def sac(world: Any = CONTINUOUS, parts: dict[str, Any] | None = None, **config: Any) -> SAC:
    return make_agent(SAC, SAC.Config(**SMALL | config), world.suite, **parts or {})


def make_constant(network: nn.Module, outputs: Sequence[float]) -> None:
    """The network gives `outputs` for every input."""
    make_zero(network)
    network.head.bias.data.copy_(torch.tensor(outputs))


def make_zero(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.data.zero_()


def with_constants(agent: SAC, policy: Sequence[float], critics: Sequence[Sequence[float]]) -> SAC:
    """The agent with constant networks; target critics get the values of the critics plus 10."""
    make_constant(agent.policy.architecture, policy)
    for member, target, values in zip(
        agent.critics.ensemble.members, agent.target_critics.ensemble.members, critics, strict=True
    ):
        make_constant(member, values)
        make_constant(target, [value + 10 for value in values])
    return agent


def batch_of(task_ids: Sequence[int], num_tasks: int = 3, **columns: Any) -> Batch:
    """Rows of the given tasks; continuous actions and noise are zero unless given."""
    rows = len(task_ids)
    counts = np.bincount(task_ids, minlength=num_tasks)
    values: dict[str, Any] = {
        "task_ids": torch.tensor(task_ids),
        "observation": torch.ones(rows, 5),
        "action": torch.zeros(rows, 2),
        "reward": torch.zeros(rows),
        "terminated": torch.zeros(rows, dtype=torch.bool),
        "truncated": torch.zeros(rows, dtype=torch.bool),
        "next_observation": torch.ones(rows, 5),
        "shares": torch.from_numpy(counts / rows).float(),
        "counts": tuple(counts.tolist()),
        "draws": {"next_action": torch.zeros(rows, 2), "action": torch.zeros(rows, 2)},
    }
    return Batch(**values | columns)


def set_alpha(agent: SAC, alpha: Sequence[float]) -> None:
    with torch.no_grad():
        agent.log_alpha.copy_(torch.tensor(alpha).log())


# Two dimensions of a standard Gaussian at its mean; tanh has slope 1 there.
LOG_PROB = -math.log(2 * math.pi)
STANDARD_GAUSSIAN = [0.0, 0.0, 0.0, 0.0]  # two means, two log standard deviations


def test_sac_keeps_the_contract_of_an_agent() -> None:
    check_agent(SAC, SAC.Config(batch_size=12, random_steps=5))


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
    target = agent.bellman_target(batch_of([1], draws={"next_action": noise}))
    assert target.item() == pytest.approx(0.99 * (12 - log_prob), rel=1e-6)


def test_the_critic_loss_is_a_mean_over_the_ensemble_and_within_each_task() -> None:
    agent = with_constants(sac(discount=0.0, num_critics=3), STANDARD_GAUSSIAN, [[1.0], [2.0], [4.0]])
    batch = batch_of([0, 0, 1], reward=torch.tensor([0.0, 1.0, 3.0]))
    result = agent.critic_losses(agent.critic_group.parameters, batch)
    # Row 0: (1 + 4 + 16) / 3, row 1: (0 + 1 + 9) / 3, row 2: (4 + 1 + 1) / 3; task 2 has no row.
    assert result.losses.tolist() == pytest.approx([(7 + 10 / 3) / 2, 2.0, 0.0])
    assert result.rows["q_value"].tolist() == pytest.approx([7 / 3] * 3)


def test_the_actor_loss_is_temperature_times_log_probability_minus_the_smaller_value() -> None:
    agent = with_constants(sac(), STANDARD_GAUSSIAN, [[3.0], [2.0]])
    set_alpha(agent, [0.5, 1.0, 2.0])
    result = agent.actor_losses(agent.actor_group.parameters, batch_of([0, 0, 2]))
    assert result.losses.tolist() == pytest.approx([0.5 * LOG_PROB - 2, 0.0, 2 * LOG_PROB - 2])
    assert result.rows["log_prob"].tolist() == pytest.approx([LOG_PROB] * 3)


def test_a_temperature_rises_while_the_entropy_is_below_its_target() -> None:
    agent = sac(alpha_learning_rate=0.1)
    set_alpha(agent, [math.e, 1.0, math.exp(-2)])
    before = agent.log_alpha.detach().clone()
    # The target entropy is -2: log pi of 3 means an entropy of -3, below it; 1 means -1, above it.
    losses = agent.update_temperatures(batch_of([0, 0, 2]), torch.tensor([4.0, 2.0, 1.0]))
    excess = [3.0 - 2.0, 0.0, 1.0 - 2.0]
    assert losses.tolist() == pytest.approx([-1 * excess[0], 0.0, 2 * excess[2]])
    assert agent.log_alpha.grad.tolist() == pytest.approx([-excess[0], 0.0, -excess[2]])
    # Adam's first step is the learning rate in the gradient's direction.
    assert (agent.log_alpha - before).tolist() == pytest.approx([0.1, 0.0, -0.1], abs=1e-6)


def test_temperatures_start_where_they_are_told_to() -> None:
    assert sac().log_alpha.exp().tolist() == [1.0, 1.0, 1.0]
    assert sac(initial_alpha=0.2).log_alpha.exp().tolist() == pytest.approx([0.2] * 3)


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
    critic = agent.critic_losses(agent.critic_group.parameters, batch).losses.tolist()
    chosen = [[9.0, 8.0], [2.0, 1.0]]
    errors = [sum((q - y) ** 2 for q in qs) / 2 for qs, y in zip(chosen, expected, strict=True)]
    assert critic == pytest.approx([*errors, 0.0], rel=1e-5)


def test_target_entropies_follow_the_action_space() -> None:
    assert sac().target_entropy.tolist() == [-2.0] * 3
    assert sac(target_entropy_scale=0.5).target_entropy.tolist() == [-1.0] * 3
    expected = [0.89 * math.log(4), 0.89 * math.log(3), 0.89 * math.log(4)]
    assert sac(DISCRETE).target_entropy.tolist() == pytest.approx(expected)


def test_temperature_task_weights_are_m_softmax_of_minus_log_alpha() -> None:
    plain, weighted = sac(), sac(temperature_task_weights=True)
    batch = batch_of([0, 1, 2], reward=torch.tensor([1.0, 2.0, 3.0]))
    for agent in (plain, weighted):
        set_alpha(agent, [0.5, 1.0, 4.0])
    # softmax(-log alpha) is 1/alpha normalised: 2, 1 and 1/4 of 13/4.
    weights = torch.tensor([24.0, 12.0, 3.0]) / 13
    for name in ("critic", "actor"):
        losses = [
            getattr(agent, f"{name}_losses")(agent.groups()[name].parameters, batch).losses
            for agent in (plain, weighted)
        ]
        torch.testing.assert_close(losses[1], weights * losses[0])
    temperature_losses = [agent.update_temperatures(batch, torch.ones(3)) for agent in (plain, weighted)]
    assert torch.equal(*temperature_losses)  # the temperatures' own loss is not weighted


def test_polyak_averaging_moves_the_targets_by_the_rate() -> None:
    target, online = [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, -2.0])]
    polyak_update(target, online, 0.25)
    assert target[0].tolist() == [1.5, 1.0]


def test_an_update_moves_the_target_critics_towards_the_new_critics() -> None:
    agent = sac(target_rate=0.1)
    for parameter in agent.target_critics.parameters():
        parameter.add_(0.5)
    before = [parameter.clone() for parameter in agent.target_critics.parameters()]
    agent.learn_from(batch_of([0, 1, 2]))
    critics = agent.critics.parameters()
    for old, new, online in zip(before, agent.target_critics.parameters(), critics, strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * online)


def test_each_loss_reaches_its_own_parameters_only() -> None:
    agent = sac()
    before = {name: parameter.clone() for name, parameter in agent.named_parameters()}
    batch = batch_of([0, 1, 2], reward=torch.ones(3))
    agent.critic_group.step(agent.critic_losses, batch)
    changed = {name.split(".")[0] for name, value in agent.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"critics"}
    agent.actor_group.step(agent.actor_losses, batch)
    changed = {name.split(".")[0] for name, value in agent.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"critics", "policy"}
    assert all(parameter.grad is None for parameter in agent.target_critics.parameters())


def test_the_gradient_norm_of_each_group_is_bounded() -> None:
    agent = sac(max_grad_norm=0.01)
    agent.learn_from(batch_of([0, 1, 2], reward=torch.tensor([1e3, 1e3, 1e3])))
    for group in agent.groups().values():
        norm = torch.stack([parameter.grad.norm() for parameter in group.parameters.values()]).norm()
        assert 0 < norm <= 0.01 * (1 + 1e-5)


class Regularised(PolicyArchitecture):
    """A linear layer with an auxiliary loss per task: its bias squared, times the task's number."""

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Any):
        super().__init__(in_features, out_features, num_tasks, config)
        self.head = nn.Linear(in_features, out_features)
        self.num_tasks = num_tasks

    def forward(self, features: Tensor, task_ids: Tensor, draw: Tensor | None = None) -> Output:
        losses = self.head.bias.square().sum() * torch.arange(self.num_tasks)
        return Output(self.head(features), losses={"bias": losses})


def test_auxiliary_losses_of_the_architecture_reach_loss_and_gradient() -> None:
    agent = sac(parts={"architecture": Regularised}, discount=0.0)
    with_constants(agent, STANDARD_GAUSSIAN, [[1.0], [3.0]])
    batch = batch_of([0, 1, 2])
    critic = agent.critic_losses(agent.critic_group.parameters, batch).losses
    # (1 + 9) / 2 from the errors; the auxiliary losses are averaged over the ensemble as well.
    assert critic.tolist() == pytest.approx([5.0 + 5.0 * task for task in range(3)])
    make_constant(agent.policy.architecture, [1.0, 0.0, 0.0, 0.0])
    plain = sac(discount=0.0)
    with_constants(plain, [1.0, 0.0, 0.0, 0.0], [[1.0], [3.0]])
    actor, without = (each.actor_losses(each.actor_group.parameters, batch).losses for each in (agent, plain))
    assert (actor - without).tolist() == pytest.approx([0.0, 1.0, 2.0], abs=1e-6)


class IdentityWeighting(JacobianAggregator):
    """Every task the same weight."""

    def weights(self, gramian: Tensor) -> Tensor:
        return torch.full((self.num_tasks,), 1 / self.num_tasks)


@pytest.mark.parametrize("world", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("tasks", [[0, 0, 1, 1, 2, 2], [0, 1, 1, 1]], ids=["equal shares", "one absent"])
def test_the_identity_weighting_gives_the_gradients_of_the_mean(world: Any, tasks: list[int]) -> None:
    rows = len(tasks)
    action = torch.zeros(rows, 2) if world is CONTINUOUS else torch.arange(rows) % 3
    noise = torch.linspace(0.1, 0.9, rows * 4).view(rows, 4)[:, : 2 if world is CONTINUOUS else 4]
    batch = batch_of(
        tasks,
        observation=torch.linspace(-1, 1, rows * 5).view(rows, 5),
        action=action,
        reward=torch.arange(float(rows)),
        draws={"next_action": noise, "action": noise.flip(0)},
    )
    gradients = []
    for parts in ({}, {"aggregator": IdentityWeighting}):
        agent = sac(world, parts)
        for name, group in agent.groups().items():
            group.aggregator.backward(getattr(agent, f"{name}_losses"), batch, group.parameters)
        gradients.append({name: p.grad for group in agent.groups().values() for name, p in group.parameters.items()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-6)


class Affine(ReturnNormalizer):
    """Fixed statistics: task i has scale 2^i and shift 10 i."""

    def __init__(self, num_tasks: int, config: Any):
        super().__init__(num_tasks, config)
        self.sigma, self.mu = 2.0 ** torch.arange(num_tasks), 10.0 * torch.arange(num_tasks)

    def denormalize(self, values: Tensor, task_ids: Tensor) -> Tensor:
        return self.sigma[task_ids] * values + self.mu[task_ids]

    def normalize(self, returns: Tensor, task_ids: Tensor) -> Tensor:
        return (returns - self.mu[task_ids]) / self.sigma[task_ids]

    def scale(self, task_ids: Tensor) -> Tensor:
        return self.sigma[task_ids]


def test_a_normaliser_stands_between_network_units_and_rewards() -> None:
    agent = with_constants(sac(parts={"normalizer": Affine}, discount=0.9), STANDARD_GAUSSIAN, [[3.0], [2.0]])
    set_alpha(agent, [0.5, 1.0, 2.0])
    batch = batch_of([0, 1, 2], reward=torch.tensor([1.0, 2.0, 3.0]))
    scales, shifts, alphas = [1, 2, 4], [0, 10, 20], [0.5, 1.0, 2.0]
    # r + gamma (sigma Q + mu - sigma alpha log pi): the temperature lives in normalised units.
    targets = [
        reward + 0.9 * (scale * 12 + shift - scale * alpha * LOG_PROB)
        for reward, scale, shift, alpha in zip((1, 2, 3), scales, shifts, alphas, strict=True)
    ]
    assert agent.bellman_target(batch).tolist() == pytest.approx(targets, rel=1e-6)
    normalised = [(y - shift) / scale for y, shift, scale in zip(targets, shifts, scales, strict=True)]
    expected = [((3 - y) ** 2 + (2 - y) ** 2) / 2 for y in normalised]
    result = agent.critic_losses(agent.critic_group.parameters, batch)
    assert result.losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert result.rows["q_value"].tolist() == pytest.approx([2.5 * s + m for s, m in zip(scales, shifts, strict=True)])
    actor = agent.actor_losses(agent.actor_group.parameters, batch).losses
    assert actor.tolist() == pytest.approx([alpha * LOG_PROB - 2 for alpha in alphas])


class Routed(PolicyArchitecture):
    """Adds what it draws to its output; without a draw, one half."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        size: int = 3  # numbers drawn per row

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.draw_size = config.size
        self.head = nn.Linear(in_features, out_features)

    def forward(self, features: Tensor, task_ids: Tensor, draw: Tensor | None = None) -> Tensor:
        drawn = torch.full((len(features),), 0.5) if draw is None else draw.mean(-1)
        return self.head(features) + drawn.unsqueeze(-1)


@pytest.mark.parametrize("world", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("aggregator", [{}, {"aggregator": PCGrad}], ids=["mean", "pcgrad"])
def test_an_architecture_that_draws_is_given_its_numbers(world: Any, aggregator: dict[str, Any]) -> None:
    agent = sac(world, {"architecture": Routed, **aggregator})
    progress = next(p for p in train(make_train_state(agent, world), 4000) if p.metrics)
    assert all(torch.isfinite(value).all() for value in progress.metrics.values())
    # Acting for the protocol draws nothing, acting to explore does.
    observation, tasks = np.ones((3, 5), np.float32), np.arange(3)
    position = agent.explore_stream.get_state()
    agent.act(observation, tasks, explore=False)
    assert torch.equal(position, agent.explore_stream.get_state())
    agent.act(observation, tasks, explore=True)
    assert not torch.equal(position, agent.explore_stream.get_state())


class Linear(Encoder):
    """Features that are trained."""

    def __init__(self, observation_space: Any, config: Any):
        super().__init__(observation_space, config)
        self.out_features = 4
        self.layer = nn.Linear(5, 4)

    def forward(self, observation: Tensor) -> Tensor:
        return self.layer(observation)


def test_the_critics_train_the_encoder_and_the_actor_does_not() -> None:
    agent = sac(parts={"encoder": Linear}, target_rate=0.5)
    batch = batch_of([0, 1, 2], reward=torch.ones(3))
    before = agent.critics.encoder.layer.weight.clone()
    agent.actor_group.step(agent.actor_losses, batch)
    assert agent.critics.encoder.layer.weight.grad is None
    assert torch.equal(agent.critics.encoder.layer.weight, before)
    agent.learn_from(batch)
    after = agent.critics.encoder.layer.weight
    assert not torch.equal(after, before)
    torch.testing.assert_close(agent.target_critics.encoder.layer.weight, (before + after) / 2)


def test_the_actor_sees_the_online_encoder_and_the_target_critics_their_own() -> None:
    plain = MLP.Config(depth=0, task_input="none")
    agent = sac(parts={"encoder": Linear, "architecture_config": plain}, discount=0.5)
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
    assert agent.critic_losses(agent.critic_group.parameters, batch).rows["q_value"].tolist() == [2.0] * 3
    actor = agent.actor_losses(agent.actor_group.parameters, batch).losses
    assert actor.tolist() == pytest.approx([log_prob - 2] * 3)


def test_actions_are_random_until_learning_begins() -> None:
    agent = with_constants(sac(DISCRETE, random_steps=50), [100.0, 0.0, 0.0, 0.0], [[0.0] * 4] * 2)
    observation, tasks = np.ones((3, 5), np.float32), np.arange(3)
    actions = np.stack([agent.act(observation, tasks, explore=True).action for _ in range(60)])
    assert set(actions[:50].ravel()) == {0, 1, 2, 3}
    assert (actions[50:] == 0).all()
    assert (agent.act(observation, tasks, explore=False).action == 0).all()
    assert agent.steps_acted == 60


def test_updates_come_in_rounds() -> None:
    world = CONTINUOUS
    agent = sac(world, random_steps=3, steps_per_update=2, updates_per_round=3)
    batches: list[Batch] = []
    learn_from = agent.learn_from
    agent.learn_from = lambda batch: batches.append(batch) or learn_from(batch)  # type: ignore[func-returns-value]
    run = train(make_train_state(agent, world), 10_000)
    learnt = [bool(next(run).metrics) for _ in range(4)]
    # Rounds come every second vector step, and the fourth step is the first that is not random.
    assert learnt == [False, True, True, True]
    assert len(batches) == 9


def test_the_default_batch_has_128_rows_per_task() -> None:
    assert make_agent(SAC, SAC.Config(), CONTINUOUS.suite).batch_size == 3 * 128


@pytest.mark.parametrize("column", ["reward", "observation", "next_observation", "action"])
def test_a_value_that_is_not_finite_stops_before_any_parameter_changes(column: str) -> None:
    agent = sac()
    batch = batch_of([0, 1, 1, 2])
    getattr(batch, column)[1] = torch.nan
    before = leaves(dict(agent.named_parameters()))
    with pytest.raises(Diverged, match=r"critic loss is not finite for the task\(s\) with index \[1\]"):
        agent.learn_from(batch)
    after = leaves(dict(agent.named_parameters()))
    assert before == after, differences(before, after)


def test_a_weight_that_is_not_finite_is_named() -> None:
    agent = sac()
    with torch.no_grad():
        agent.policy.architecture.head.weight[0, 0] = torch.inf
    with pytest.raises(Diverged, match="critic loss is not finite"):
        agent.learn_from(batch_of([0, 1, 2]))
    with pytest.raises(Diverged, match="actor loss is not finite"):
        agent.actor_group.step(agent.actor_losses, batch_of([0, 1, 2]))


def test_metrics_tell_about_each_task() -> None:
    world = CONTINUOUS
    agent = sac(world)
    state = make_train_state(agent, world)
    progress = next(p for p in train(state, 4000) if p.metrics)
    assert set(progress.metrics) == {"critic_loss", "actor_loss", "alpha_loss", "alpha", "entropy", "q_value"}
    assert all(tuple(value.shape) == (3,) for value in progress.metrics.values())


def test_entropy_is_reported_as_minus_the_mean_log_probability() -> None:
    agent = with_constants(sac(), STANDARD_GAUSSIAN, [[0.0], [0.0]])
    metrics = agent.learn_from(batch_of([0, 1, 2], draws={}))
    agent.update_stream.manual_seed(agent.update_stream.initial_seed())
    agent.head.draw_noise(3, agent.update_stream)
    noise = agent.head.draw_noise(3, agent.update_stream)
    expected = -agent.head.distribution(torch.zeros(3, 4), torch.arange(3)).log_prob_of_noise(noise)
    torch.testing.assert_close(metrics["entropy"], mean_per_task(expected, torch.arange(3), 3))


def test_a_sampled_batch_of_the_buffer_is_learnt_from() -> None:
    world = counting_world()
    agent, state = sac(world), None
    state = make_train_state(agent, world)
    Player(world, state.buffer).play(20)
    agent.steps_acted = 10
    assert agent.update(state.buffer, np.ones(3))
