"""Routing networks: choices by hand, and what teaches a router. Shapes: B batch, M tasks, L depths, K choices."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.ppo import PPO
from agents.sac import SAC
from mtrl.networks.modular.routers import EXPLORATION, SharedRouter, SoftmaxTable, WeightedPolicyLearner, onto_simplex
from mtrl.networks.modular.routing import Routing
from mtrl.seeding import seeded_construction
from mtrl.testing import check_architecture
from mtrl.testing.small_runs import make_agent
from tests.agents.constants import CONTINUOUS, batch_of

TABLE = torch.tensor([[[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], [[0.1, 0.1, 0.8], [0.6, 0.3, 0.1]]])  # (M, L, K)


def small(**settings: Any) -> Routing.Config:
    sizes = {"width": 4, "depth": 2, "num_modules": 2}
    return Routing.Config(**{**sizes, "table_rate": 2.0, "table_spread": 0.0, "commitment": 0.0, **settings})


def with_table(network: Routing, probabilities: Tensor) -> Routing:
    with torch.no_grad():
        if isinstance(network.router, WeightedPolicyLearner):
            network.router.probabilities.copy_(probabilities)
        else:
            assert isinstance(network.router, SoftmaxTable)
            network.router.logits.copy_(probabilities.log() / network.router.rate)
    return network


def test_the_contract_holds_with_every_reward_and_without_the_pass() -> None:
    check_architecture(
        Routing, small(learning="reinforce", pass_block=False, diversity=0.1, collaboration=0.1, commitment=0.1)
    )


def test_a_route_leads_through_its_blocks_and_a_pass_changes_nothing() -> None:
    network = Routing(1, 1, 2, small(width=1, depth=3, learning="reinforce"))
    values = {
        "first.weight": [[3.0]],
        "first.bias": [-1.0],
        "blocks.weight": [[2.0], [-1.0]],
        "blocks.bias": [1.0, 20.0],
        "router.logits": torch.zeros(2, 3, 3).tolist(),
        "head.weight": [[1.0]],
        "head.bias": [0.5],
    }
    network.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    routes = torch.tensor([[0, 1, 0], [1, 2, 0], [2, 2, 2]])
    # From 2: to 5, 15 and 31; to 18, 18 and 37; and nowhere.
    found = network(torch.ones(3, 1), torch.tensor([0, 1, 1]), route=routes)
    assert found.values.flatten().tolist() == [31.5, 37.5, 2.5]
    assert torch.equal(found.route, routes)
    assert found.route_log_prob.tolist() == pytest.approx(3 * [3 * math.log(1 / 3)])
    assert found.route_entropy.tolist() == pytest.approx(3 * [3 * math.log(3)])


@pytest.mark.parametrize("learning", ["reinforce", "wpl"])
def test_choices_are_sampled_as_often_as_the_table_says_and_without_noise_the_most_likely_is_taken(
    learning: str,
) -> None:
    network = with_table(Routing(1, 1, 2, small(learning=learning)), TABLE)
    tasks = torch.arange(2).repeat_interleave(20_000)
    noise = torch.rand(len(tasks), network.noise_size, generator=torch.Generator().manual_seed(1))
    output = network(torch.ones(len(tasks), 1), tasks, noise)
    choice = output.diagnostics["choice"].unflatten(0, (2, -1)).mean(1)
    torch.testing.assert_close(choice, TABLE, atol=0.012, rtol=0)
    assert network(torch.ones(2, 1), torch.arange(2)).route.tolist() == [[0, 2], [2, 0]]
    # Task 0, say, uses (0.35, 0.25, 0.4) of all choices.
    use = TABLE.mean(1)
    entropy = output.diagnostics["use_entropy"].unflatten(0, (2, -1)).mean(1)
    assert entropy.tolist() == pytest.approx((-(use * use.log()).sum(-1)).tolist(), abs=0.01)


def test_the_gradient_of_a_gumbel_choice_is_that_of_the_softmax_of_noisy_logits() -> None:
    network = Routing(1, 1, 1, small(temperature=0.5))
    log_probs = torch.tensor([[0.5, 0.3, 0.2]]).log().requires_grad_()
    noise, upstream = torch.tensor([[0.1, 0.9, 0.3]]), torch.tensor([1.0, -2.0, 0.5])
    choice = network.choose(log_probs, noise)
    assert choice.tolist() == [[0.0, 1.0, 0.0]]
    (choice * upstream).sum().backward()
    found, log_probs.grad = log_probs.grad, None
    noisy = log_probs - (-noise.log()).log()
    (torch.softmax(noisy / 0.5, dim=-1) * upstream).sum().backward()
    torch.testing.assert_close(found, log_probs.grad)


def test_tables_start_with_routes_of_their_own_or_uniform() -> None:
    with seeded_construction(1, "initial weights"):
        spread = SoftmaxTable(50, 4, 5, rate=10.0, spread=2.0)
        uniform = SoftmaxTable(50, 4, 5, rate=10.0, spread=0.0)
    assert float((10.0 * spread.logits.detach()).std()) == pytest.approx(2.0, rel=0.1)
    assert len(spread.log_table().argmax(-1).unique(dim=0)) > 40  # of 50 tasks
    torch.testing.assert_close(uniform.log_table().exp(), torch.full((50, 4, 5), 0.2))


def test_the_shared_router_sees_features_task_and_depth() -> None:
    router = SharedRouter(2, 3, 2, 4, hidden=8)
    torch.nn.init.normal_(router.network[-1].weight)
    features, tasks = torch.ones(1, 2), torch.tensor([0])
    first = router(features, tasks, 0)
    assert first.exp().sum().item() == pytest.approx(1)
    for other in (router(2 * features, tasks, 0), router(features, tasks + 1, 0), router(features, tasks, 1)):
        assert not torch.allclose(first, other)


ROUTES = torch.tensor(list(product(range(3), repeat=2)))  # (9, L)


def central_differences(objective: Any, table: Tensor, step: float) -> Tensor:
    """Gradient of `objective()` with respect to `table`, which it reads."""
    gradient = torch.zeros_like(table)
    with torch.no_grad():
        for index in np.ndindex(*table.shape):
            kept = table[index].clone()
            table[index] = kept + step
            high = objective()
            table[index] = kept - step
            gradient[index] = (high - objective()) / (2 * step)
            table[index] = kept
    return gradient


def test_the_policy_gradient_of_ppo_is_that_of_the_expectation_over_all_routes() -> None:
    # Routes stored by a uniform policy: the mean of ratio times advantage is the expectation under the router.
    components: Any = {"architecture": Routing, "architecture_config": small(learning="reinforce")}
    agent = make_agent(
        PPO, PPO.Config(clip_range=1e6, entropy_coefficient=0, value_coefficient=0), CONTINUOUS.spec, **components
    )
    network = with_table(agent.networks.policy.architecture, torch.cat([TABLE, TABLE[:1]]))
    advantage = torch.linspace(-1, 2, 9).square()
    batch = batch_of(9 * [1], noise={})
    with torch.no_grad():
        policy = agent.networks(batch.observation, batch.task_ids, route=ROUTES).policy
        density = policy.distribution.log_prob(torch.zeros(9, 2))
    extras = {
        "route": ROUTES.float(),
        "sample": torch.zeros(9, 2),
        "advantage": advantage,
        "log_prob": density - math.log(9),
        "return": torch.zeros(9),
        "value": torch.zeros(9),
    }
    batch = replace(batch, extras=extras)
    agent.group.aggregator.backward(agent.losses, batch, agent.group.parameters)
    logits = network.router.logits

    def expectation() -> Tensor:
        probabilities = (network.router.rate * logits[1].double()).softmax(-1)
        return (probabilities[0, ROUTES[:, 0]] * probabilities[1, ROUTES[:, 1]] * advantage).sum()

    torch.testing.assert_close(logits.grad, -central_differences(expectation, logits, 1e-2), atol=2e-4, rtol=0)


def test_the_actor_gradient_of_sac_is_that_of_the_expected_cost_over_all_routes() -> None:
    components: Any = {"architecture": Routing, "architecture_config": small(learning="reinforce", depth=1)}
    agent = make_agent(SAC, SAC.Config(), CONTINUOUS.spec, **components)
    network = with_table(agent.policy.architecture, torch.cat([TABLE, TABLE[:1]])[:, :1])
    with torch.no_grad():  # heads that tell the blocks apart
        for part in (network, *agent.critics.ensemble.members):
            part.head.weight.normal_()
    rows = 40_000
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(rows, network.noise_size, generator=generator)
    batch = batch_of(rows * [1], noise={"action": torch.zeros(rows, 2), "route": noise})
    agent.actor_group.aggregator.backward(agent.actor_losses, batch, agent.actor_group.parameters)
    forced = batch_of(3 * [1])
    with torch.no_grad():
        routes = torch.arange(3).unsqueeze(1)
        policy = agent.policy(forced.observation, forced.task_ids, route=routes).distribution
        expected = policy.expect(
            lambda action: agent.min_q(agent.critics, forced.observation, action, forced, "none"),
            forced.noise["action"],
        )
        costs = expected.log_prob - expected.value  # temperature 1
    assert costs.std() > 0.1
    logits = network.router.logits

    def expectation() -> Tensor:
        return ((network.router.rate * logits[1, 0].double()).softmax(-1) * costs).sum()

    truth = central_differences(expectation, logits, 1e-2)
    torch.testing.assert_close(logits.grad, truth, atol=0.03 * float(truth.abs().max()), rtol=0)


def test_the_nearest_distribution_with_a_floor() -> None:
    values = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.9, -3.0], [0.2, 0.2, 0.2], [9.0, 0.0, 0.0]])
    third = 1 / 3
    expected = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.4, 0.1], [third, third, third], [0.8, 0.1, 0.1]])
    torch.testing.assert_close(onto_simplex(values, 0.1), expected)


def test_the_weighted_policy_learner_is_slow_towards_certainty_and_quick_to_leave_it() -> None:
    router = WeightedPolicyLearner(1, 1, 3, rate=0.1)
    router.probabilities.data.copy_(torch.tensor([0.6, 0.3, 0.1]))
    router.probabilities.grad = torch.tensor([[[-1.0, 0.0, 2.0]]])
    router.step(torch.ones(1))
    # Gains (1, 0, -2) less their mean 0.4 are (0.6, -0.4, -2.4); weights 0.4, 0.3 and 0.1.
    moved = torch.tensor([0.6 + 0.024, 0.3 - 0.012, 0.1 - 0.024])
    torch.testing.assert_close(router.probabilities.data.flatten(), moved + (1 - moved.sum()) / 3)
    for _ in range(100):
        router.step(torch.ones(1))
    floor = EXPLORATION / 3
    torch.testing.assert_close(router.probabilities.data.flatten(), torch.tensor([1 - 2 * floor, floor, floor]))


@pytest.mark.parametrize("agent_type", [SAC, PPO])
def test_the_optimiser_leaves_the_probabilities_to_the_weighted_policy_learner(agent_type: Any) -> None:
    components: Any = {"architecture": Routing, "architecture_config": small(learning="wpl")}
    agent = make_agent(agent_type, agent_type.Config(), CONTINUOUS.spec, **components)
    group = list(agent.groups().values())[-1]
    left = [name for name in group.parameters if name not in group.state()["optimizer"]]
    assert [name.rpartition(".")[2] for name in left] == ["probabilities"]
    # The same state continues in the same bits.
    batch = batch_of([0, 0, 1, 1, 2, 2], reward=torch.arange(6.0), noise={})
    if agent_type is PPO:
        routes = torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0], [2, 1], [1, 1]])
        extras = {"route": routes.float(), "sample": torch.zeros(6, 2), "advantage": torch.linspace(-1, 1, 6)}
        extras |= dict.fromkeys(("log_prob", "return", "value"), torch.zeros(6))
        batch = replace(batch, extras=extras)
    agent.learn(batch)
    other = make_agent(agent_type, agent_type.Config(), CONTINUOUS.spec, seed=2, **components)
    other.load_state(agent.state())
    before = group.parameters[left[0]].clone()
    for each in (agent, other):
        each.learn(batch)
    table = group.parameters[left[0]]
    assert not torch.equal(table, before)
    torch.testing.assert_close(table.sum(-1), torch.ones(table.shape[:-1]))
    for name, value in agent.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("learning", ["reinforce", "wpl"])
def test_values_learn_through_gumbel_choices_however_the_policy_learns(learning: str) -> None:
    components: Any = {"architecture": Routing, "architecture_config": small(learning=learning)}
    sac = make_agent(SAC, SAC.Config(), CONTINUOUS.spec, **components)
    ppo = make_agent(PPO, PPO.Config(), CONTINUOUS.spec, **components)
    assert sac.policy.route_size == ppo.networks.policy.route_size == 2
    for network in (*sac.critics.ensemble.members, *ppo.networks.value.members):
        assert (network.route_size, network.relaxed) == (0, True)
        assert isinstance(network.router, SoftmaxTable)


def test_diversity_rewards_the_entropy_of_what_a_task_chooses() -> None:
    network = with_table(Routing(1, 1, 2, small(diversity=0.5)), TABLE)
    losses = network(torch.ones(4, 1), torch.tensor([0, 0, 0, 1])).losses
    use = TABLE.mean(1)
    assert losses["diversity"].tolist() == pytest.approx((0.5 * (use * use.log()).sum(-1)).tolist(), rel=1e-5)


def test_commitment_penalizes_the_entropy_of_single_choices() -> None:
    network = with_table(Routing(1, 1, 2, small(commitment=0.5)), TABLE)
    losses = network(torch.ones(4, 1), torch.tensor([0, 0, 0, 1])).losses
    entropies = -(TABLE * TABLE.log()).sum(-1).mean(1)
    assert losses["commitment"].tolist() == pytest.approx((0.5 * entropies).tolist(), rel=1e-5)


@pytest.mark.parametrize("learning", ["gumbel", "wpl"])
def test_collaboration_rewards_blocks_by_their_share_of_all_use(learning: str) -> None:
    network = with_table(Routing(1, 1, 2, small(collaboration=0.1, learning=learning)), TABLE)
    losses = network(torch.ones(1, 1), torch.tensor([0])).losses
    # The blocks' shares are 0.35 and 0.225; the pass is nobody's to share.
    expected = [(0.5 + 0.2) * 0.35 + (0.3 + 0.2) * 0.225, (0.1 + 0.6) * 0.35 + (0.1 + 0.3) * 0.225]
    assert losses["collaboration"].tolist() == pytest.approx([-0.1 * reward for reward in expected], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"learning": "wpl"}, "learning 'wpl' moves the probabilities of a table; router is 'shared'"),
        ({"collaboration": 0.1}, "collaboration is between the routers of tasks; router 'shared' is only one"),
    ],
)
def test_what_needs_a_table_is_refused_for_the_shared_router(settings: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Routing.Config(router="shared", **settings)


def test_choices_and_the_entropy_of_use_are_metrics_of_every_task() -> None:
    components: Any = {"architecture": Routing, "architecture_config": small(learning="wpl")}
    metrics = make_agent(SAC, SAC.Config(), CONTINUOUS.spec, **components).learn(batch_of([0, 0, 1, 1, 2, 2]))
    choice = metrics["actor/choice"]  # (M, L, K)
    torch.testing.assert_close(choice.sum(-1), torch.ones(3, 2))
    use = choice.mean(1)
    torch.testing.assert_close(metrics["actor/use_entropy"], -(use * use.clamp(min=1e-8).log()).sum(-1))
