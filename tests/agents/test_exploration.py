"""Random actions that are held. Shapes: N slots, A dimensions of an action."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.exploration import LONGEST, HeldActions
from agents.sac import SAC
from mtrl.policies import make_soft_head
from tests.agents.constants import CONTINUOUS, DISCRETE, sac

SLOTS = 2000
TASKS = torch.zeros(SLOTS, dtype=torch.int64)


def held_actions(suite: object, rate: float, num_envs: int = SLOTS) -> HeldActions:
    return HeldActions(rate, num_envs, make_soft_head(suite.spec), torch.Generator().manual_seed(1))  # type: ignore[attr-defined]


def played(held: HeldActions, steps: int) -> torch.Tensor:
    """What is played where the policy's action is 5 in every dimension: (steps, N, A)."""
    return torch.stack([held(torch.full((SLOTS, 2), 5.0), TASKS) for _ in range(steps)])


def test_lengths_fall_with_their_square() -> None:
    remaining = []
    for seed in range(50):
        held = HeldActions(1.0, SLOTS, make_soft_head(CONTINUOUS.spec), torch.Generator().manual_seed(seed))
        held(torch.zeros(SLOTS, 2), TASKS)
        remaining.append(held.remaining + 1)
    shares = torch.bincount(torch.cat(remaining), minlength=LONGEST + 1) / (50 * SLOTS)
    total = sum(n**-2 for n in range(1, LONGEST + 1))
    assert shares[1:5].tolist() == pytest.approx([n**-2 / total for n in range(1, 5)], rel=0.05)
    assert len(shares) == LONGEST + 1


def test_an_action_begins_at_the_rate_and_is_constant_while_it_lasts() -> None:
    held = held_actions(CONTINUOUS, 0.1)
    begun, last = 0, torch.zeros(SLOTS, dtype=torch.int64)
    for _ in range(20):
        before = held.action.clone()
        actions = held(torch.full((SLOTS, 2), 5.0), TASKS)
        going_on = last > 0
        assert torch.equal(held.action[going_on], before[going_on])
        assert bool(((actions == held.action) | (actions == 5)).all())
        begun += int(((held.action != before).any(1)).sum())
        idle = int((~going_on).sum())
        assert int(((held.action != before).any(1)).sum()) == pytest.approx(0.1 * idle, rel=0.3)
        last = held.remaining.clone()


def test_each_dimension_of_a_continuous_action_takes_part_half_of_the_time() -> None:
    random = played(held_actions(CONTINUOUS, 1.0), 5) != 5
    assert random.float().mean().item() == pytest.approx(0.5, abs=0.02)
    both, first = random.all(-1).float().mean().item(), random[..., 0].float().mean().item()
    assert both == pytest.approx(first / 2, abs=0.02)  # independently of one another


def test_a_discrete_action_is_replaced_whole_and_is_one_of_the_task() -> None:
    held = held_actions(DISCRETE, 1.0)
    num_actions = int(DISCRETE.spec.action_space.n)
    actions = held(torch.full((SLOTS,), -1), TASKS)
    assert actions.min() >= 0
    assert actions.max() < num_actions


def test_a_slot_that_changes_its_task_ends_its_action() -> None:
    held = held_actions(CONTINUOUS, 1.0)
    held(torch.zeros(SLOTS, 2), TASKS)
    long = held.remaining > 0
    before = held.action.clone()
    held(torch.zeros(SLOTS, 2), TASKS + 1)
    assert bool((held.action != before).any(1)[long].all())


def test_other_rows_than_the_slots_are_left_alone() -> None:
    action = torch.ones(3, 2)
    assert held_actions(CONTINUOUS, 1.0)(action, torch.zeros(3, dtype=torch.int64)) is action


def acted(agent: SAC, steps: int) -> np.ndarray:
    tasks = np.arange(agent.num_envs) % agent.num_tasks
    observation = np.ones((agent.num_envs, *agent.spec.observation_space.shape), np.float32)
    return np.stack([agent.act(observation, tasks, explore=True).action for _ in range(steps)])


def test_warm_up_and_evaluations_hold_nothing() -> None:
    plain, holding = sac(learning_starts=30), sac(learning_starts=30, held_action_rate=1.0)
    steps = 30 // plain.num_envs
    assert np.array_equal(acted(plain, steps), acted(holding, steps))
    assert not np.array_equal(acted(plain, 1), acted(holding, 1))
    tasks = np.arange(3)
    observation = np.ones((3, *plain.spec.observation_space.shape), np.float32)
    assert np.array_equal(
        plain.act(observation, tasks, explore=False).action, holding.act(observation, tasks, explore=False).action
    )


def test_a_saved_agent_goes_on_with_the_actions_it_holds() -> None:
    first, second = (sac(learning_starts=1, held_action_rate=0.5) for _ in range(2))
    acted(first, 10)
    second.load_state(first.state())
    assert np.array_equal(acted(first, 10), acted(second, 10))
