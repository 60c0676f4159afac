"""The losses of PPO against numbers worked by hand. Shapes: T time, N slots, B batch, A action, M tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.gae import successor_values
from agents.policy_gradient import clipped_surrogate, mean_metrics, normalized_per_task
from agents.ppo import PPO
from envs.metaworld.suite import HORIZON, MetaWorld
from mtrl.aggregation import JacobianAggregator, aggregators
from mtrl.encoders import Encoder, Identity
from mtrl.errors import Diverged
from mtrl.networks import Output, PolicyArchitecture
from mtrl.networks.hard_sharing.mlp import MLP
from mtrl.normalization import normalizers
from mtrl.policies.distral import Distral
from mtrl.scheduling.fixed import Fixed
from mtrl.seeding import torch_stream
from mtrl.testing import check_agent
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from mtrl.types import Batch, Progress
from tests.agents.constants import CONTINUOUS, DISCRETE, batch_of, make_constant

SMALL = {"rollout_steps": 8, "epochs": 2, "minibatches": 2}
LOG_DENSITY = -math.log(2 * math.pi)  # of two standard Gaussians at their mean


def until_it_learns(run: Iterator[Progress]) -> Progress:
    """The turn of training in which the next update is made."""
    return next(progress for progress in run if progress.metrics)


def ppo(suite: Any = CONTINUOUS, components: dict[str, Any] | None = None, **config: Any) -> PPO:
    return make_agent(PPO, PPO.Config(**SMALL | config), suite.spec, **components or {})


def with_constants(agent: PPO, policy: list[float], value: float) -> PPO:
    make_constant(agent.networks.policy.architecture, policy)
    make_constant(agent.networks.value.members[0], [value])
    agent.use_last_weights()
    return agent


def samples_of(task_ids: list[int], **extras: Any) -> Batch:
    """Samples as `with_advantages` gives them: everything zero but what is given."""
    rows = len(task_ids)
    names = {"log_prob": 0.0, "value": 0.0, "advantage": 0.0, "return": 0.0}
    columns = {name: torch.tensor(extras.pop(name, rows * [value])) for name, value in names.items()}
    return batch_of(task_ids, noise={}, extras={**columns, "sample": torch.zeros(rows, 2), **extras})


def losses(agent: PPO, batch: Batch) -> list[float]:
    return agent.losses(agent.group.parameters, batch).losses.tolist()


class Routed(PolicyArchitecture):
    """Chooses one of two linear layers for each sample."""

    noise_size = 1
    route_size = 1

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Any):
        super().__init__(in_features, out_features, num_tasks, config)
        self.router = nn.Embedding(num_tasks, 2)
        self.blocks = nn.ModuleList(nn.Linear(in_features, out_features) for _ in range(2))

    def forward(
        self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None, route: Tensor | None = None
    ) -> Output:
        log_probs = torch.log_softmax(self.router(task_ids), dim=-1)
        if route is None:
            most_likely = log_probs.argmax(-1, keepdim=True)
            route = most_likely if noise is None else (noise > log_probs[:, :1].exp()).long()
        values = torch.stack([block(features) for block in self.blocks], dim=1)
        chosen = values.gather(1, route.unsqueeze(-1).expand(-1, -1, values.shape[-1])).squeeze(1)
        return Output(
            chosen,
            route=route,
            route_log_prob=log_probs.gather(1, route).squeeze(1),
            route_entropy=-(log_probs.exp() * log_probs).sum(-1),
        )


class Noisy(Routed):
    """Its choice is noise: no log-probability, no route."""

    route_size = 0

    def forward(
        self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None, route: Tensor | None = None
    ) -> Output:
        return Output(super().forward(features, task_ids, noise).values)


def test_ppo_keeps_the_contract_of_an_agent() -> None:
    check_agent(PPO, PPO.Config(**SMALL))


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.1, 2.0, -2.2),  # within the range
        (1.5, 2.0, -2.4),  # a gain beyond it counts up to the bound
        (0.5, 2.0, -1.0),  # a loss counts whole
        (0.5, -2.0, 1.6),
        (1.5, -2.0, 3.0),
    ],
)
def test_the_surrogate_is_clipped_where_that_makes_it_worse(ratio: float, advantage: float, expected: float) -> None:
    log_ratio = torch.tensor([math.log(ratio)], requires_grad=True)
    loss = clipped_surrogate(log_ratio, torch.tensor([advantage]), 0.2)
    assert loss.item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(loss.sum(), log_ratio)
    beyond = (ratio > 1.2 and advantage > 0) or (ratio < 0.8 and advantage < 0)
    assert gradient.item() == pytest.approx(0.0 if beyond else -ratio * advantage)


def test_the_loss_is_surrogate_plus_value_error_minus_entropy_within_each_task() -> None:
    agent = with_constants(ppo(clip_range=0.2, value_coefficient=0.5, entropy_coefficient=0.1), [0.0, 0.0], value=3.0)
    # Samples at the mean; two rows of task 0, whose ratios are 1 and 2, and one of task 2.
    batch = samples_of(
        [0, 0, 2],
        log_prob=[LOG_DENSITY, LOG_DENSITY - math.log(2), LOG_DENSITY],
        advantage=[1.0, 1.0, -1.0],
        **{"return": [5.0, 3.0, 2.0]},
    )
    entropy = 1 + math.log(2 * math.pi)
    task_0 = (-1.0 + 0.5 * 4 - 1.2 + 0.0) / 2 - 0.1 * entropy
    task_2 = 1.0 + 0.5 * 1 - 0.1 * entropy
    assert losses(agent, batch) == pytest.approx([task_0, 0.0, task_2], rel=1e-5)
    metrics = agent.losses(agent.group.parameters, batch).metrics
    assert metrics["policy_loss"].tolist() == pytest.approx([-1.0, -1.2, 1.0], rel=1e-5)
    assert metrics["value_loss"].tolist() == pytest.approx([4.0, 0.0, 1.0])
    assert metrics["entropy"].tolist() == pytest.approx([entropy] * 3)
    assert metrics["approximate_kl"].tolist() == pytest.approx([0.0, 1 - math.log(2), 0.0], abs=1e-5)
    assert metrics["clip_rate"].tolist() == [0.0, 1.0, 0.0]


def test_every_task_has_a_deviation_of_its_own() -> None:
    agent = with_constants(ppo(entropy_coefficient=0.0, value_coefficient=0.0), [1.0, 0.0], value=0.0)
    with torch.no_grad():
        agent.head.log_std[1] = torch.tensor([0.5, -0.5])
    batch = samples_of([0, 1], sample=torch.tensor([[1.5, 0.0], [2.0, 1.0]]), advantage=[-1.0, -1.0])
    densities = [
        -0.5 * 0.5**2 - math.log(2 * math.pi),
        -0.5 * (1 / math.exp(0.5)) ** 2 - 0.5 * (1 / math.exp(-0.5)) ** 2 - 0.0 - math.log(2 * math.pi),
    ]
    stored = torch.tensor(densities)
    batch = replace(batch, extras={**batch.extras, "log_prob": stored})
    metrics = agent.losses(agent.group.parameters, batch).metrics
    assert metrics["policy_loss"].tolist() == pytest.approx([1.0, 1.0], rel=1e-5)
    agent.group.aggregator.backward(agent.losses, batch, agent.group.parameters)
    assert (agent.head.log_std.grad[2] == 0).all()
    assert (agent.head.log_std.grad[:2] != 0).any(1).all()


def test_values_may_be_clipped_around_the_old_ones() -> None:
    batch = samples_of([0, 1, 2], value=[1.0, 1.0, 4.0], **{"return": [0.0, 5.0, 3.0]})
    plain = with_constants(ppo(value_coefficient=1.0), [0.0, 0.0], value=2.0)
    clipped = with_constants(ppo(value_coefficient=1.0, value_clip_range=0.5), [0.0, 0.0], value=2.0)
    assert plain.losses(plain.group.parameters, batch).metrics["value_loss"].tolist() == [4.0, 9.0, 1.0]
    # Clipped values 1.5, 1.5 and 3.5: the larger error counts.
    expected = [4.0, 3.5**2, 1.0]
    assert clipped.losses(clipped.group.parameters, batch).metrics["value_loss"].tolist() == expected


def test_discrete_ratios_are_of_the_legal_actions() -> None:
    logits = [0.5, -1.0, 0.0, 2.0]
    agent = with_constants(ppo(DISCRETE, entropy_coefficient=0.0, value_coefficient=0.0), logits, value=0.0)
    total = [sum(map(math.exp, logits)), sum(map(math.exp, logits[:3]))]  # odd tasks lack the last action
    probs = math.exp(2.0) / total[0], math.exp(-1.0) / total[1]
    batch = samples_of([0, 1], log_prob=[math.log(probs[0]), math.log(probs[1] / 1.05)], advantage=[-1.0, -2.0])
    extras = {name: value for name, value in batch.extras.items() if name != "sample"}
    batch = replace(batch, action=torch.tensor([3, 1]), extras=extras)
    assert losses(agent, batch) == pytest.approx([1.0, 2.1, 0.0], rel=1e-5)


def test_what_is_stored_is_the_sample_and_what_is_played_is_in_the_box() -> None:
    agent = with_constants(ppo(initial_log_std=1.0), [0.9, -0.9], value=2.5)
    observation, tasks = np.zeros((600, 5), np.float32), np.arange(600) % 3
    action_step = agent.act(observation, tasks, explore=True)
    sample = action_step.extras["sample"]
    assert (np.abs(sample) > 1).any()
    np.testing.assert_array_equal(action_step.action, sample.clip(-1, 1))
    assert action_step.action.dtype == np.float32
    # The density is that of the sample: of all that was clipped to one bound none has the bound's.
    noise = (sample - np.array([0.9, -0.9])) / math.e
    expected = (-0.5 * noise**2 - 1 - 0.5 * math.log(2 * math.pi)).sum(1)
    np.testing.assert_allclose(action_step.extras["log_prob"], expected, rtol=1e-4)
    mode = with_constants(agent, [0.4, -3.0], 0.0).act(observation, tasks, explore=False)
    np.testing.assert_allclose(mode.action, np.tile([0.4, -1.0], (600, 1)), rtol=1e-6)


@pytest.mark.parametrize("architecture", [MLP, Routed, Noisy])
@pytest.mark.parametrize("suite", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def test_before_the_first_step_every_ratio_is_one(suite: Any, architecture: type[PolicyArchitecture]) -> None:
    agent = ppo(suite, {"architecture": architecture})
    agent.group.learning_rate = 0.0
    progress = until_it_learns(training_loop(make_train_state(agent, suite), 4 * agent.rollout_steps))
    torch.testing.assert_close(progress.metrics["approximate_kl"], torch.zeros(3), atol=1e-5, rtol=0)
    assert progress.metrics["clip_rate"].tolist() == [0.0] * 3


def test_advantages_are_normalised_over_the_whole_rollout_task_by_task() -> None:
    agent = ppo()
    state = make_train_state(agent, CONTINUOUS)
    kept: list[Batch] = []
    with_advantages = agent.with_advantages
    agent.with_advantages = lambda rollout: kept.append(with_advantages(rollout)) or kept[-1]  # type: ignore
    list(training_loop(state, 40 * agent.rollout_steps))
    for batch in kept:
        advantage = batch.extras["advantage"]
        for task in batch.task_ids.unique():
            own = advantage[batch.task_ids == task]
            assert own.mean().item() == pytest.approx(0, abs=1e-5)
            assert own.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_the_scale_of_one_tasks_advantages_says_nothing_to_another() -> None:
    values, tasks = torch.tensor([1.0, 3.0, 1000.0, 3000.0, 7.0]), torch.tensor([0, 0, 1, 1, 2])
    assert normalized_per_task(values, tasks, 4).tolist() == pytest.approx([-1, 1, -1, 1, 0])


def test_the_values_of_successors_are_of_final_observations_where_episodes_end() -> None:
    agent = ppo()
    state = make_train_state(agent, CONTINUOUS)
    kept: list[Batch] = []
    with_advantages = agent.with_advantages
    agent.with_advantages = lambda rollout: kept.append(rollout) or with_advantages(rollout)  # type: ignore
    run = training_loop(state, 10_000)
    for _ in range(5):
        before = {name: value.clone() for name, value in agent.state_dict().items()}
        until_it_learns(run)
        rollout = kept[-1]
        ended = rollout.terminated | rollout.truncated
        assert (rollout.terminated & rollout.truncated).any() or ended.any()
        after = agent.state_dict()
        agent.load_state_dict(before)
        with torch.no_grad():
            flat = rollout.observation.flatten(0, 1), rollout.task_ids.flatten()
            expected = agent.networks.value(rollout.next_observation.flatten(0, 1), rollout.task_ids.flatten()).values

            def value(observation: Tensor, task_ids: Tensor) -> Tensor:
                return agent.networks.values(observation, task_ids).values

            found = successor_values(value, rollout, value(*flat).view_as(rollout.reward))
        agent.load_state_dict(after)
        going_on = ~rollout.terminated
        torch.testing.assert_close(found[going_on], expected.view_as(found)[going_on])


class Learnt(Identity):
    """Features that cost something."""

    def __init__(self, observation_space: gym.spaces.Box, config: Any):
        super().__init__(observation_space, config)
        self.layer = nn.Linear(self.out_features, self.out_features)

    def forward(self, observation: Tensor) -> Tensor:
        return self.layer(observation)


@pytest.mark.parametrize("normalizer", normalizers.names())
@pytest.mark.parametrize("encoder", [Identity, Learnt])
def test_values_are_those_at_the_rollouts_end_whenever_they_are_taken(encoder: type[Encoder], normalizer: str) -> None:
    agent = ppo(components={"encoder": encoder, "normalizer": normalizers.get(normalizer)}, minibatches=3)
    assert ("value" in agent.extras) == (encoder is Learnt)
    seen: list[tuple[Tensor, Tensor]] = []
    with_advantages = agent.with_advantages

    def compared(rollout: Batch) -> Batch:
        batch = with_advantages(rollout)
        with torch.no_grad():
            steps = zip(rollout.observation, rollout.task_ids, strict=True)
            values = [agent.networks.values(agent.networks.encoder(of), tasks).values for of, tasks in steps]
            denormalized = agent.normalizer.denormalize(torch.cat(values), rollout.task_ids.flatten())
        seen.append((batch.extras["value"], denormalized))
        return batch

    agent.with_advantages = compared  # type: ignore[method-assign]
    run = training_loop(make_train_state(agent, CONTINUOUS), 1000)
    for _ in range(2):
        until_it_learns(run)
    for values, one_by_one in seen:
        torch.testing.assert_close(values, one_by_one)
    assert not torch.equal(*(values for values, _ in seen))


def test_a_return_that_is_not_finite_stops_before_the_first_minibatch() -> None:
    agent = ppo(normalize_advantages=False)
    state = make_train_state(agent, CONTINUOUS)
    add = state.buffer.add

    def poisoned(observation: np.ndarray, action_step: Any, step: Any) -> None:
        # One row of one slot, of whatever task it plays.
        reward = np.where((state.buffer.num_rows == 3) & (np.arange(4) == 1), np.nan, step.reward)
        bad.extend(step.task_ids[np.isnan(reward)].tolist())
        add(observation, action_step, replace(step, reward=reward.astype(np.float32)))

    bad: list[int] = []
    state.buffer.add = poisoned  # type: ignore[method-assign]
    before = {name: parameter.clone() for name, parameter in agent.named_parameters()}
    with pytest.raises(Diverged, match=r"return is not finite for the task\(s\) count-") as raised:
        until_it_learns(training_loop(state, 1000))
    assert str(raised.value).endswith(f"count-{bad[0]}")
    assert all(torch.equal(parameter, before[name]) for name, parameter in agent.named_parameters())


@pytest.mark.parametrize("column", ["observation", "extras.log_prob", "extras.advantage", "extras.return"])
def test_a_row_that_is_not_finite_stops_before_the_step_and_names_its_task(column: str) -> None:
    agent = ppo()
    batch = samples_of([0, 1, 1, 2])
    batch.columns()[column][1] = torch.nan
    before = {name: parameter.clone() for name, parameter in agent.named_parameters()}
    with pytest.raises(Diverged, match=r"actor-critic loss is not finite for the task\(s\) count-1$"):
        agent.learn(batch)
    assert all(torch.equal(parameter, before[name]) for name, parameter in agent.named_parameters())


class IdentityWeighting(JacobianAggregator):
    """Every task the same weight."""

    def weights(self, gramian: Tensor) -> Tensor:
        return torch.full((len(gramian),), 1 / len(gramian))


@pytest.mark.parametrize("tasks", [[0, 0, 1, 1, 2, 2], [0, 1, 1, 1]], ids=["equal shares", "one absent"])
def test_the_identity_weighting_gives_the_gradients_of_the_mean(tasks: list[int]) -> None:
    rows = len(tasks)
    batch = samples_of(
        tasks,
        log_prob=[LOG_DENSITY] * rows,
        advantage=torch.linspace(-1, 1, rows).tolist(),
        sample=torch.linspace(-0.5, 0.5, 2 * rows).view(rows, 2),
        **{"return": list(range(rows)), "value": [0.0] * rows},
    )
    batch = replace(batch, observation=torch.linspace(-1, 1, rows * 5).view(rows, 5))
    batch = replace(batch, extras={name: value.float() for name, value in batch.extras.items()})
    gradients = []
    for components in ({}, {"aggregator": IdentityWeighting}):
        agent = ppo(components=components)
        agent.group.aggregator.backward(agent.losses, batch, agent.group.parameters)
        gradients.append({name: value.grad for name, value in agent.group.parameters.items()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-6)


def test_a_route_is_part_of_the_action() -> None:
    agent = ppo(components={"architecture": Routed}, clip_range=10.0, entropy_coefficient=0.5, value_coefficient=0.0)
    network = agent.networks.policy.architecture
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.blocks[1].bias.copy_(torch.tensor([0.5, 0.0]))
        network.router.weight[1] = torch.tensor([math.log(3.0), 0.0])
    # The stored routes are taken again: row 0 the first block, row 1 the second.
    batch = samples_of([0, 1], sample=torch.tensor([[0.0, 0.0], [0.5, 0.0]]), advantage=[1.0, 1.0])
    batch = replace(batch, extras={**batch.extras, "route": torch.tensor([[0.0], [1.0]])})
    log_probs = [LOG_DENSITY + math.log(0.5), LOG_DENSITY + math.log(0.25)]
    metrics = agent.losses(agent.group.parameters, batch).metrics
    assert metrics["policy_loss"].tolist() == pytest.approx([-math.exp(value) for value in log_probs], rel=1e-5)
    gaussian = 1 + math.log(2 * math.pi)
    of_routes = [math.log(2), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))]
    assert metrics["entropy"].tolist() == pytest.approx([gaussian + entropy for entropy in of_routes], rel=1e-5)
    # The ratio teaches the router: task 0 was right to choose the first block.
    agent.group.aggregator.backward(agent.losses, batch, agent.group.parameters)
    assert network.router.weight.grad[0, 0] < 0 < network.router.weight.grad[0, 1]


@pytest.mark.parametrize("suite", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def test_routes_are_stored_with_the_log_probability_they_were_drawn_with(suite: Any) -> None:
    agent = ppo(suite, {"architecture": Routed})
    observation, tasks = np.ones((300, 5), np.float32), np.arange(300) % 3
    action_step = agent.act(observation, tasks, explore=True)
    assert set(action_step.extras["route"].ravel()) == {0.0, 1.0}
    position = agent.explore_stream.get_state()
    agent.act(observation, tasks, explore=False)
    assert torch.equal(position, agent.explore_stream.get_state())


def test_the_routes_of_both_columns_of_distral_are_part_of_the_action() -> None:
    agent = ppo(components={"architecture": Routed, "policy": Distral}, entropy_coefficient=0.0)
    observation, tasks = np.ones((300, 5), np.float32), np.arange(300) % 3
    action_step = agent.act(observation, tasks, explore=True)
    route = torch.from_numpy(action_step.extras["route"]).long()
    assert sorted(map(tuple, route.unique(dim=0).tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    # Taken again, they give the log-probability they were drawn with, in which each has its own.
    policy = agent.networks.policy
    again = policy(torch.from_numpy(observation), torch.from_numpy(tasks), route=route)
    log_prob = (
        again.distribution.log_prob(torch.from_numpy(action_step.extras["sample"])) + again.network.route_log_prob
    )
    torch.testing.assert_close(log_prob, torch.from_numpy(action_step.extras["log_prob"]))
    of_routes = [
        torch.log_softmax(column.router(ids), -1).gather(1, route[:, index : index + 1]).squeeze(1)
        for index, (column, ids) in enumerate(
            ((policy.common, torch.zeros(300, dtype=torch.int64)), (policy.task, torch.from_numpy(tasks)))
        )
    ]
    torch.testing.assert_close(again.network.route_log_prob, of_routes[0] + of_routes[1])


def test_a_router_learns_by_reinforcement() -> None:
    # The second block is right for task 0 and wrong for task 1.
    agent = ppo(components={"architecture": Routed}, learning_rate=0.05, entropy_coefficient=0.0, value_coefficient=0.0)
    agent.networks.policy.architecture.router.weight.data.zero_()
    generator = torch_stream(1, "routes")
    tasks = torch.arange(2).repeat_interleave(64)
    for _ in range(30):
        route = torch.randint(2, (128, 1), generator=generator)
        better = (route.squeeze(1) == (1 - tasks)).float()
        batch = samples_of(tasks.tolist(), advantage=(2 * better - 1).tolist())
        with torch.no_grad():
            policy = agent.networks(batch.observation, tasks, route=route).policy
            log_prob = policy.distribution.log_prob(batch.extras["sample"]) + policy.network.route_log_prob
        extras = {**batch.extras, "route": route.float(), "log_prob": log_prob}
        agent.group.step(agent.losses, replace(batch, extras=extras))
    best = agent.networks.policy.architecture.router.weight.argmax(1)
    assert best[:2].tolist() == [1, 0]


def test_metrics_are_means_per_task() -> None:
    agent = ppo(epochs=1, minibatches=1)
    progress = until_it_learns(training_loop(make_train_state(agent, CONTINUOUS), 1000))
    names = {"policy_loss", "value_loss", "entropy", "approximate_kl", "clip_rate", "value"}
    assert set(progress.metrics) == names
    assert all(tuple(value.shape) == (3,) for value in progress.metrics.values())


@pytest.mark.parametrize("aggregator", aggregators.names())
def test_no_gradient_or_metric_keeps_the_graph_of_its_update(aggregator: str) -> None:
    agent = ppo(components={"aggregator": aggregators.get(aggregator)})
    progress = until_it_learns(training_loop(make_train_state(agent, CONTINUOUS), 1000))
    assert not any(value.requires_grad for value in progress.metrics.values())
    assert not any(parameter.grad.requires_grad for parameter in agent.group.parameters.values())


def test_the_learning_rate_falls_to_zero_after_the_last_rollout_of_the_steps_given() -> None:
    agent = ppo(annealing_steps=4 * 8 * 4, learning_rate=0.1)
    state = make_train_state(agent, CONTINUOUS)
    turns = training_loop(state, 5 * 8 * 4)
    rates = [agent.group.learning_rate for turn in turns if turn.metrics]
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.0])


def gradient_steps(agent: PPO) -> int:
    """Those made so far, as Adam counts them."""
    return int(next(iter(agent.group.state()["optimizer"].values()))["step"])


def test_an_epoch_beyond_the_target_divergence_is_the_last() -> None:
    for target_kl, epochs in ((1e-9, 2), (1e9, 5), (None, 5)):
        agent = ppo(epochs=5, minibatches=1, learning_rate=0.05, target_kl=target_kl)
        until_it_learns(training_loop(make_train_state(agent, CONTINUOUS), 1000))
        # In the first pass over a rollout with one minibatch nothing has diverged yet.
        assert gradient_steps(agent) == epochs


ONLY_FIRST = Fixed.Config(weights=(1.0, 0.0, 0.0))


def only_first_task(**config: Any) -> tuple[PPO, Progress]:
    """An agent after one update with samples of the first of three tasks."""
    agent = ppo(minibatches=1, learning_rate=0.05, **config)
    state = make_train_state(agent, CONTINUOUS, scheduler=Fixed(CONTINUOUS.spec, ONLY_FIRST, 1))
    return agent, until_it_learns(training_loop(state, 1000))


def test_tasks_without_samples_do_not_make_the_divergence_look_smaller() -> None:
    _, progress = only_first_task(epochs=2)
    divergence = 2 * progress.metrics["approximate_kl"][0].item()  # 0 in the first epoch
    assert divergence > 0
    # Between a third of it, the mean over all three tasks, and itself.
    for share, stops in ((0.5, True), (0.99, True), (1.5, False)):
        agent, _ = only_first_task(epochs=5, target_kl=share * divergence)
        assert (gradient_steps(agent) == 2) == stops


def test_a_metric_of_a_task_without_samples_is_no_number() -> None:
    _, progress = only_first_task(epochs=2)
    for name, values in progress.metrics.items():
        assert torch.isfinite(values).tolist() == [True, False, False], name
        assert values[1:].isnan().all()


def test_metrics_of_an_update_weigh_minibatches_by_their_samples_of_the_task() -> None:
    nan = math.nan
    first = {"loss": torch.tensor([1.0, 4.0, nan]), "use": torch.tensor([[1.0, 0.0], [1.0, 1.0], [nan, nan]])}
    second = {"loss": torch.tensor([5.0, nan, nan]), "use": torch.tensor([[0.0, 1.0], [nan, nan], [nan, nan]])}
    means = mean_metrics([first, second], [(3, 2, 0), (1, 0, 0)])
    torch.testing.assert_close(means["loss"], torch.tensor([2.0, 4.0, nan]), equal_nan=True)
    torch.testing.assert_close(means["use"], torch.tensor([[0.75, 0.25], [1.0, 1.0], [nan, nan]]), equal_nan=True)


@pytest.mark.parametrize("preset", ["fast", "published"])
@pytest.mark.parametrize("suite", ["mt3", "mt10", "mt25", "mt50", "mt1-reach", "metaworld:reach,push"])
def test_every_meta_world_suite_has_settings_for_ppo(suite: str, preset: str) -> None:
    settings = dict(MetaWorld.presets(suite, "ppo")[preset]["agent"])
    assert settings.pop("name") == "ppo"
    config = PPO.Config(**settings)
    # A whole episode at least: a rollout that ends before has seen no return.
    assert config.rollout_steps >= HORIZON
    assert (config.clip_range, config.entropy_coefficient, config.normalize_advantages) == (0.2, 5e-3, True)
