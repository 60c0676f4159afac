"""Networks that start anew. Shapes: M tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agents.sac import SAC
from mtrl.normalization.task_mean import TaskMean
from mtrl.types import TaskWeights
from tests.agents.constants import batch_of, sac

NETWORKS = ("policy", "critics", "target_critics", "average")


class Batches:
    """A buffer that gives the same batch whenever it is asked, and counts."""

    asked = 0

    def sample(self, batch_size: int, shares: np.ndarray, n_step: int, horizon: int = 0) -> Any:
        self.asked += 1
        return batch_of([0, 1, 2])


WEIGHTS = TaskWeights(np.full(3, 1 / 3), np.ones(3))


def weights(agent: SAC) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in agent.named_parameters() if name.split(".")[0] in NETWORKS}


def update_at(agent: SAC, env_steps: int) -> int:
    """How many batches an update after that many env steps asks for."""
    agent.env_steps, buffer = env_steps, Batches()
    agent.update(buffer, WEIGHTS)  # type: ignore[arg-type]
    return buffer.asked


def test_networks_start_anew_once_after_each_interval_and_then_catch_up() -> None:
    agent = sac(learning_starts=1, reset_interval=100, reset_updates=3)
    steps = range(agent.num_envs, 320, agent.num_envs)
    asked = [update_at(agent, env_steps) for env_steps in steps]
    # An evaluation at the end of an interval, or of the run, plays what was learned in it.
    firsts = [next(env_steps for env_steps in steps if env_steps >= end) + agent.num_envs for end in (100, 200, 300)]
    assert asked == [4 if env_steps in firsts else 1 for env_steps in steps]


def test_a_reset_depends_on_the_seed_and_the_step_alone() -> None:
    first, second = (sac(learning_starts=1, reset_interval=100, reset_updates=0) for _ in range(2))
    for _ in range(3):
        update_at(first, 50)
    initial = weights(sac())
    for agent in (first, second):
        agent.env_steps = 100
        agent.resets.apply(agent)
        assert not agent.critic_group.optimizer.state
    for name, value in weights(first).items():
        torch.testing.assert_close(value, weights(second)[name], rtol=0, atol=0)
    changed = [name for name, value in weights(first).items() if not torch.equal(value, initial[name])]
    assert any(name.startswith("policy") for name in changed)
    assert any(name.startswith("critics") for name in changed)
    # A target network starts as the network it follows.
    for online, target in zip(first.critics.parameters(), first.target_critics.parameters(), strict=True):
        torch.testing.assert_close(online, target, rtol=0, atol=0)


def test_without_an_interval_nothing_starts_anew() -> None:
    agent = sac(learning_starts=1)
    assert [update_at(agent, steps) for steps in (50, 100, 200)] == [1, 1, 1]


def test_units_of_task_mean_change_at_the_first_update_and_at_resets_only() -> None:
    agent = sac(components={"normalizer": TaskMean}, learning_starts=1, reset_interval=1000, reset_updates=1)
    assert isinstance(agent.normalizer, TaskMean)
    agent.normalizer.total.copy_(torch.tensor([8.0, 2.0, 0.0]))
    agent.normalizer.count.copy_(torch.tensor([4.0, 4.0, 0.0]))
    found = []
    for steps, total in ((50, 8.0), (500, 16.0), (1000 + agent.num_envs, 16.0)):
        agent.normalizer.total[0] = total
        update_at(agent, steps)
        found.append(agent.normalizer.divisors().tolist())
    # Means 2 and 0.5, then 4 and 0.5; task 2 has no samples.
    assert found == [pytest.approx([1, 0.25, 1]), pytest.approx([1, 0.25, 1]), pytest.approx([1, 0.125, 1])]


def test_after_a_reset_the_average_soon_forgets_the_initial_weights() -> None:
    agent = sac(learning_starts=1, reset_interval=1000, reset_updates=0)
    agent.average.num_updates = 50_000
    agent.env_steps = 1000
    agent.resets.apply(agent)
    assert agent.average.num_updates == 0


def test_a_run_saved_before_its_first_update_measures_its_units_then_all_the_same() -> None:
    first, restored = (sac(components={"normalizer": TaskMean}, learning_starts=1) for _ in range(2))
    first.normalizer.total.copy_(torch.tensor([8.0, 2.0, 1.0]))
    first.normalizer.count.fill_(4)
    restored.load_state(first.state())
    for agent in (first, restored):
        update_at(agent, 50)
    assert restored.normalizer.divisors().tolist() == first.normalizer.divisors().tolist() == [1, 0.25, 0.125]
