"""How soft actor-critic acts, and what an update changes. Shapes: M tasks."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.critics import polyak_update
from agents.sac import SAC
from mtrl.aggregation import JacobianAggregator, aggregators
from mtrl.aggregation.projection.pcgrad import PCGrad
from mtrl.errors import Diverged
from mtrl.networks import PolicyArchitecture
from mtrl.per_task import mean_per_task
from mtrl.testing import check_agent
from mtrl.testing.attributes import differences, leaves
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from mtrl.types import Batch, TaskWeights
from tests.agents.constants import (
    CONTINUOUS,
    DISCRETE,
    STANDARD_GAUSSIAN,
    aggregated,
    batch_of,
    sac,
    with_constants,
    with_target,
)
from tests.env.counting import Player, counting_suite


def test_sac_keeps_the_contract_of_an_agent() -> None:
    check_agent(SAC, SAC.Config(batch_size=12, learning_starts=20))


def test_polyak_averaging_moves_the_targets_by_the_rate() -> None:
    target, online = (nn.ParameterList([torch.tensor(values)]) for values in ([1.0, 2.0], [3.0, -2.0]))
    polyak_update(list(target), list(online), 0.25)
    assert target[0].tolist() == [1.5, 1.0]


def test_an_update_moves_the_target_critics_towards_the_new_critics() -> None:
    agent = sac(target_rate=0.1)
    for parameter in agent.target_critics.parameters():
        parameter.add_(0.5)
    before = [parameter.clone() for parameter in agent.target_critics.parameters()]
    agent.learn(batch_of([0, 1, 2]))
    critics = agent.critics.parameters()
    for old, new, online in zip(before, agent.target_critics.parameters(), critics, strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * online)


def test_a_copy_of_an_agent_learns_what_the_agent_learns_and_apart_from_it() -> None:
    agent = sac()
    batch = batch_of([0, 1, 2], reward=torch.ones(3))
    agent.learn(batch)
    twin = copy.deepcopy(agent)
    before = leaves(agent.state())
    twin.learn(batch)
    assert leaves(agent.state()) == before != leaves(twin.state())
    agent.learn(batch)
    assert leaves(agent.state()) == leaves(twin.state())


def test_each_loss_reaches_its_own_parameters_only() -> None:
    agent = sac()
    before = {name: parameter.clone() for name, parameter in agent.named_parameters()}
    batch = batch_of([0, 1, 2], reward=torch.ones(3))
    agent.critic_group.step(agent.critic_losses, with_target(agent, batch))
    changed = {name.split(".")[0] for name, value in agent.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"critics"}
    agent.actor_group.step(agent.actor_losses, batch)
    changed = {name.split(".")[0] for name, value in agent.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"critics", "policy"}
    assert all(parameter.grad is None for parameter in agent.target_critics.parameters())


def test_the_gradient_norm_of_each_group_is_bounded() -> None:
    agent = sac(max_grad_norm=0.01)
    agent.learn(batch_of([0, 1, 2], reward=torch.tensor([1e3, 1e3, 1e3])))
    for group in agent.groups().values():
        norm = torch.stack([parameter.grad.norm() for parameter in group.parameters.values()]).norm()
        assert 0 < norm <= 0.01 * (1 + 1e-5)


class IdentityWeighting(JacobianAggregator):
    """Every task the same weight."""

    def weights(self, gramian: Tensor) -> Tensor:
        return torch.full((len(gramian),), 1 / len(gramian))


@pytest.mark.parametrize("suite", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("tasks", [[0, 0, 1, 1, 2, 2], [0, 1, 1, 1]], ids=["equal shares", "one absent"])
def test_the_identity_weighting_gives_the_gradients_of_the_mean(suite: Any, tasks: list[int]) -> None:
    rows = len(tasks)
    action = torch.zeros(rows, 2) if suite is CONTINUOUS else torch.arange(rows) % 3
    noise = torch.linspace(0.1, 0.9, rows * 4).view(rows, 4)[:, : 2 if suite is CONTINUOUS else 4]
    batch = batch_of(
        tasks,
        observation=torch.linspace(-1, 1, rows * 5).view(rows, 5),
        action=action,
        reward=torch.arange(float(rows)),
        noise={"next_action": noise, "action": noise.flip(0)},
    )
    gradients = []
    for components in ({}, {"aggregator": IdentityWeighting}):
        agent = sac(suite, components)
        for name, group in agent.groups().items():
            group.aggregator.backward(getattr(agent, f"{name}_losses"), with_target(agent, batch), group.parameters)
        gradients.append({name: p.grad for group in agent.groups().values() for name, p in group.parameters.items()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-6)


class Noisy(PolicyArchitecture):
    """Adds the mean of its noise to its output; without noise, one half."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        size: int = 3  # uniform numbers per sample

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.noise_size = config.size
        self.head = nn.Linear(in_features, out_features)

    def forward(self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None) -> Tensor:
        shift = torch.full((len(features),), 0.5) if noise is None else noise.mean(-1)
        return self.head(features) + shift.unsqueeze(-1)


@pytest.mark.parametrize("suite", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("aggregator", [{}, {"aggregator": PCGrad}], ids=["mean", "pcgrad"])
def test_an_architecture_with_noise_gets_it_in_learning_and_exploring_alone(
    suite: Any, aggregator: dict[str, Any]
) -> None:
    agent = sac(suite, {"architecture": Noisy, **aggregator})
    progress = next(p for p in training_loop(make_train_state(agent, suite), 4000) if p.metrics)
    assert all(torch.isfinite(value).all() for value in progress.metrics.values())
    # Acting for the protocol draws nothing, acting to explore does.
    observation, tasks = np.ones((3, 5), np.float32), np.arange(3)
    position = agent.explore_stream.get_state()
    agent.act(observation, tasks, explore=False)
    assert torch.equal(position, agent.explore_stream.get_state())
    agent.act(observation, tasks, explore=True)
    assert not torch.equal(position, agent.explore_stream.get_state())


def test_actions_are_random_until_learning_begins() -> None:
    agent = with_constants(sac(DISCRETE, learning_starts=150), [100.0, 0.0, 0.0, 0.0], [[0.0] * 4] * 2)
    observation, tasks = np.ones((3, 5), np.float32), np.arange(3)
    actions = np.stack([agent.act(observation, tasks, explore=True).action for _ in range(60)])
    assert set(actions[:50].ravel()) == {0, 1, 2, 3}
    assert (actions[50:] == 0).all()
    assert (agent.act(observation, tasks, explore=False).action == 0).all()
    assert agent.env_steps == 180


def test_updates_take_several_gradient_steps_every_few_env_steps() -> None:
    suite = CONTINUOUS
    agent = sac(suite, learning_starts=12, update_interval=7, gradient_steps=3)
    batches: list[Batch] = []
    learn = agent.learn
    agent.learn = lambda batch: batches.append(batch) or learn(batch)  # type: ignore[func-returns-value]
    run = training_loop(make_train_state(agent, suite), 10_000)
    learnt = [bool(next(run).metrics) for _ in range(8)]
    # 7 env steps of 4 environments are two vector steps, and the fourth is the first that is not random.
    assert learnt == [False, False, False, True, False, True, False, True]
    assert len(batches) == 9


def test_the_default_batch_has_128_transitions_per_task() -> None:
    assert make_agent(SAC, SAC.Config(), CONTINUOUS.spec).batch_size == 3 * 128


@pytest.mark.parametrize("column", ["reward", "observation", "next_observation", "action"])
def test_a_value_that_is_not_finite_stops_before_any_parameter_changes(column: str) -> None:
    agent = sac()
    batch = batch_of([0, 1, 1, 2])
    getattr(batch, column)[1] = torch.nan
    before = leaves(dict(agent.named_parameters()))
    with pytest.raises(Diverged, match=r"critic loss is not finite for the task\(s\) count-1$"):
        agent.learn(batch)
    after = leaves(dict(agent.named_parameters()))
    assert before == after, differences(before, after)


def test_where_a_value_is_not_finite_a_group_on_a_gpu_does_nothing_until_it_is_asked() -> None:
    agent = sac()
    for group in agent.groups().values():  # as they are on a GPU; fused Adam does the same here
        group.not_finite = torch.zeros(4, dtype=torch.bool)
    batch = batch_of([0, 1, 2])
    agent.learn(batch)
    agent.critic_group.check()
    parameters = list(agent.critic_group.parameters.values())
    before = [parameter.clone() for parameter in parameters]
    for reward in (torch.tensor([0.0, torch.nan, 0.0]), torch.zeros(3)):
        poisoned = replace(batch, reward=reward)
        agent.critic_group.step(agent.critic_losses, with_target(agent, poisoned))
        assert all(map(torch.equal, parameters, before))
    with pytest.raises(Diverged, match=r"critic loss is not finite for the task\(s\) count-1$"):
        agent.critic_group.check()
    agent.actor_group.check()


def test_a_gradient_longer_than_the_bound_is_divided_by_its_excess() -> None:
    agent = sac(max_grad_norm=1e-3)
    batch = with_target(agent, batch_of([0, 1, 2], reward=torch.tensor([10.0, -20.0, 30.0])))
    agent.critic_group.step(agent.critic_losses, batch)
    gradients = [parameter.grad for parameter in agent.critic_group.parameters.values()]
    norm = nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_a_weight_that_is_not_finite_is_named() -> None:
    agent = sac()
    with torch.no_grad():
        agent.policy.architecture.head.weight[0, 0] = torch.inf
    with pytest.raises(Diverged, match="critic loss is not finite"):
        agent.learn(batch_of([0, 1, 2]))
    with pytest.raises(Diverged, match="actor loss is not finite"):
        agent.actor_group.step(agent.actor_losses, batch_of([0, 1, 2]))


def test_metrics_tell_about_each_task() -> None:
    suite = CONTINUOUS
    agent = sac(suite)
    state = make_train_state(agent, suite)
    progress = next(p for p in training_loop(state, 4000) if p.metrics)
    assert set(progress.metrics) == {"critic_loss", "actor_loss", "alpha_loss", "alpha", "entropy", "q_value"}
    assert all(tuple(value.shape) == (3,) for value in progress.metrics.values())


def test_entropy_is_reported_as_minus_the_mean_log_probability() -> None:
    agent = with_constants(sac(), STANDARD_GAUSSIAN, [[0.0], [0.0]])
    metrics = agent.learn(batch_of([0, 1, 2], noise={}))
    agent.update_stream.manual_seed(agent.update_stream.initial_seed())
    agent.head.sample_noise(3, agent.update_stream)
    noise = agent.head.sample_noise(3, agent.update_stream)
    expected = -agent.head.distribution(torch.zeros(3, 4), torch.arange(3)).log_prob_of_noise(noise)
    torch.testing.assert_close(metrics["entropy"], mean_per_task(expected, torch.arange(3), 3))


def test_a_sampled_batch_of_the_buffer_is_learnt_from() -> None:
    suite = counting_suite()
    agent, state = sac(suite), None
    state = make_train_state(agent, suite)
    Player(suite, state.buffer).play(20)
    agent.env_steps = 100
    assert agent.update(state.buffer, TaskWeights(np.full(3, 1 / 3), np.ones(3)))


@pytest.mark.parametrize("aggregator", aggregators.names())
def test_no_gradient_or_metric_keeps_the_graph_of_its_update(aggregator: str) -> None:
    agent = sac(components=aggregated(SAC, aggregators.get(aggregator)))
    metrics = agent.learn(batch_of([0, 0, 1, 2], reward=torch.ones(4)))
    assert not any(value.requires_grad for value in metrics.values())
    for group in agent.groups().values():
        assert not any(parameter.grad.requires_grad for parameter in group.parameters.values())
