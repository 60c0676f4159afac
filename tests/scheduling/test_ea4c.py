"""The meta-learner: its reward, its loss, and that it learns what pays. Shapes: M tasks, T decisions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mtrl.scheduling.active.ea4c import EA4C, MetaNetwork, actor_critic_loss, meta_rewards
from mtrl.seeding import stream
from mtrl.testing.attributes import differences, leaves
from mtrl.testing.scheduler import suite_with_targets
from tests.scheduling.histories import episodes


def test_the_reward_is_the_distance_and_the_progress_of_the_three_worst() -> None:
    # The three worst have 1 - m = 0, 0.2 and 0.4, of mean 0.2.
    found = meta_rewards(np.array([1.0, 0.1, 0.8, 0.6]), 0.7)
    assert found.tolist() == pytest.approx([0.7 + 0.06, 0.07 + 0.06, 0.56 + 0.06, 0.42 + 0.06])
    # Of two tasks both are among the worst.
    assert meta_rewards(np.array([1.0, 0.5]), 0.0).tolist() == pytest.approx([0.25, 0.25])


def test_the_loss_worked_by_hand() -> None:
    # A new network: policy (1/2, 1/2), value 0. Two decisions, discount 0.5, and a value of 2 after them.
    config = EA4C.Config(discount=0.5, min_share=0.2, entropy_weight=0.01)
    network = MetaNetwork(2, 4)
    fractions, rewards = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[1.0, 0.3], [0.6, 0.2]])
    loss = actor_critic_loss(
        network,
        inputs=torch.zeros(2, 6),
        memory=network.no_memory(),
        fractions=fractions,
        rewards=rewards,
        next_value=2.0,
        config=config,
    )
    # The second decision: mean reward 0.4, then 0.5 * 2 = 1, return 1.4. The first: 1 + 0.5 * 1.4 = 1.7.
    policy = -math.log(0.5) * (1.7 + (0.5 * 1.6 + 0.5 * 1.2)) / 2
    value = 0.5 * (1.7**2 + 1.4**2) / 2
    assert loss.item() == pytest.approx(policy + value - 0.01 * math.log(2), rel=1e-5)


def test_the_likelihood_is_of_what_the_slots_draw() -> None:
    # With a share of one kept there is nothing to decide: no gradient reaches the policy but the entropy's.
    network = MetaNetwork(2, 4)
    config = EA4C.Config(min_share=1.0, entropy_weight=0.0)
    loss = actor_critic_loss(
        network,
        inputs=torch.ones(1, 6),
        memory=network.no_memory(),
        fractions=torch.tensor([[1.0, 0.0]]),
        rewards=torch.tensor([[1.0, 0.0]]),
        next_value=0.0,
        config=config,
    )
    loss.backward()
    assert network.head.bias.grad is not None
    assert network.head.bias.grad[:2].tolist() == [0, 0]
    assert network.head.bias.grad[2] != 0


def play(scheduler: EA4C, decisions: int, seed: int = 1, slots: int = 8) -> np.ndarray:
    """Weights (decisions, M) while task 0 stays unsolved and the others are solved; slots draw from them."""
    generator, weights = stream(seed, "meta learner test"), []
    for _ in range(decisions):
        tasks = generator.choice(scheduler.num_tasks, size=slots, p=scheduler.weights()).tolist()
        scheduler.on_episodes(episodes(*[(task, 1.0 if task == 0 else 9.0) for task in tasks]))
        weights.append(scheduler.weights())
    return np.stack(weights)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_learns_to_prefer_the_task_that_is_furthest_from_its_target(seed: int) -> None:
    scheduler = EA4C(suite_with_targets(4), EA4C.Config(uniform_episodes=2, learning_rate=1e-2), seed)
    weights = play(scheduler, 300, seed)
    assert weights[0].tolist() == [0.25] * 4
    assert weights[-50:, 0].mean() > 0.6


def test_it_stays_near_uniform_where_all_tasks_are_alike() -> None:
    scheduler = EA4C(suite_with_targets(4), EA4C.Config(uniform_episodes=0), 1)
    generator = stream(1, "meta learner test")
    for _ in range(100):
        tasks = generator.choice(4, size=8, p=scheduler.weights()).tolist()
        scheduler.on_episodes(episodes(*[(task, 5.0) for task in tasks]))
    assert scheduler.weights().max() < 0.5


def test_it_is_saved_with_optimiser_memory_and_decisions() -> None:
    whole, restored = (EA4C(suite_with_targets(4), EA4C.Config(uniform_episodes=0), seed) for seed in (1, 2))
    play(whole, 43)  # after four updates, in the middle of a fifth
    assert len(whole._inputs) == 3
    restored.load_state(whole.state())
    assert not differences(leaves(whole), leaves(restored))
    assert play(whole, 40, 5).tobytes() == play(restored, 40, 5).tobytes()
    assert not differences(leaves(whole), leaves(restored))
