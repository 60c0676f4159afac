"""Normalizers inside the agents. Shapes: B batch, M tasks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.ppo import PPO
from agents.sac import SAC
from mtrl.agent import Agent, Components
from mtrl.normalization import ReturnNormalizer, normalizers
from mtrl.normalization.popart import PopArt
from mtrl.testing import check_agent
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from mtrl.types import Batch
from tests.agents.constants import CONTINUOUS, batch_of, make_constant

CONFIGS: dict[type[Agent], Any] = {
    SAC: SAC.Config(batch_size=12, learning_starts=20),
    PPO: PPO.Config(rollout_steps=8, epochs=2, minibatches=2),
}


class QuickPopArt(PopArt):
    """Statistics that move far in one update."""

    def __init__(self, num_tasks: int, config: Any, discount: float):
        super().__init__(num_tasks, PopArt.Config(rate=0.3), discount)


@pytest.mark.parametrize("name", [name for name in normalizers.names() if name != "none"])
@pytest.mark.parametrize("cls", CONFIGS)
def test_agents_keep_their_contract_with_every_normalizer(cls: type[Agent], name: str) -> None:
    normalizer = normalizers.get(name)

    class Normalized(cls):  # type: ignore[misc, valid-type]
        def __init__(self, components: Components, config: Any):
            num_tasks = components.spec.num_tasks
            super().__init__(
                replace(components, normalizer=lambda _: normalizer(num_tasks, normalizer.Config())), config
            )

    check_agent(Normalized, CONFIGS[cls])


def q_values(agent: SAC, batch: Batch) -> Tensor:
    """Of online and target critics, in reward units."""
    found = []
    for critics in (agent.critics, agent.target_critics):
        features = critics.encoder(batch.observation)
        values = critics(agent.head.critic_input(features, batch.action), batch.task_ids).values.squeeze(-1)
        found.append(agent.normalizer.denormalize(values, batch.task_ids))
    return torch.stack(found).detach()


def test_statistics_move_under_online_and_target_critics_alike() -> None:
    agent = make_agent(SAC, CONFIGS[SAC], CONTINUOUS.spec, normalizer=QuickPopArt)
    reward = torch.tensor([1.0, -3.0, 1000.0, 3000.0])
    batch = batch_of([0, 0, 1, 1], observation=torch.randn(4, 5, generator=agent.update_stream), reward=reward)
    agent.learn(batch)
    before, std = q_values(agent, batch), agent.normalizer.std
    seen: list[Tensor] = []
    step = agent.critic_group.step

    def watched(loss_fn: Any, batch: Batch) -> Any:
        seen.append(q_values(agent, batch))
        return step(loss_fn, batch)

    agent.critic_group.step = watched  # type: ignore[method-assign]
    agent.learn(replace(batch, reward=2 * reward))
    # After the statistics moved and before the critics learnt.
    sizes = before.abs() + agent.normalizer.std[batch.task_ids] + agent.normalizer.mean[batch.task_ids].abs()
    assert ((seen[0] - before).abs() <= 1e-5 * sizes).all()
    assert agent.normalizer.std[1] / std[1] > 1.05
    assert not torch.allclose(q_values(agent, batch)[0], before[0], rtol=1e-4)


def test_the_affine_learns_with_the_critics_and_the_targets_follow() -> None:
    agent = make_agent(SAC, CONFIGS[SAC], CONTINUOUS.spec, normalizer=PopArt)
    assert {"output.scale", "output.shift"} <= set(agent.critic_group.parameters)
    assert tuple(agent.critics.output.scale.shape) == (2, 3)
    assert not any(parameter.requires_grad for parameter in agent.target_critics.output.parameters())


def test_without_normalized_advantages_the_policy_gradient_is_weighted_in_the_normalizers_units() -> None:
    agent = make_agent(PPO, PPO.Config(normalize_advantages=False), CONTINUOUS.spec, normalizer=QuickPopArt)
    tasks = torch.tensor([0, 1, 2])
    agent.normalizer.update_statistics(torch.tensor([4.0, 1000.0, -7.0]), tasks, [agent.networks.output])
    make_constant(agent.networks.policy.architecture, [0.0, 0.0])
    return_, value = torch.tensor([3.0, 900.0, -8.0]), torch.tensor([2.0, 1100.0, 0.5])
    # Samples at the mean of two standard Gaussians, whose ratios are 1.
    log_prob = torch.full((3,), -math.log(2 * math.pi))
    extras = {"sample": torch.zeros(3, 2), "log_prob": log_prob, "return": return_, "value": value}
    batch = batch_of([0, 1, 2], noise={}, extras={**extras, "advantage": return_ - value})
    mean, std = agent.normalizer.mean, agent.normalizer.std
    # (G - mu) / sigma - v
    expected = (return_ - mean) / std - (value - mean) / std
    found = -agent.losses(agent.group.parameters, batch).metrics["policy_loss"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", CONFIGS)
def test_every_step_is_shown_to_the_normalizer_once(cls: type[Agent]) -> None:
    shown: list[np.ndarray] = []

    class Watching(normalizers.get("none")):  # type: ignore[misc]
        def on_env_step(self, step: Any) -> None:
            shown.append(step.reward)

    state = make_train_state(make_agent(cls, CONFIGS[cls], CONTINUOUS.spec, normalizer=Watching), CONTINUOUS)
    list(training_loop(state, 16 * 4))
    assert len(shown) == 16


def test_the_values_that_advantages_are_measured_from_are_in_reward_units() -> None:
    class Thousands(ReturnNormalizer):
        def __init__(self, num_tasks: int, config: Any, discount: float = 0.99):
            super().__init__(num_tasks, config, discount)

        def denormalize(self, values: Tensor, task_ids: Tensor) -> Tensor:
            return 1000 * values

        def normalize(self, returns: Tensor, task_ids: Tensor) -> Tensor:
            return returns / 1000

        def scale(self, task_ids: Tensor) -> float:
            return 1000.0

    agent = make_agent(PPO, CONFIGS[PPO], CONTINUOUS.spec, normalizer=Thousands)
    network = agent.networks.value.members[0]
    for parameter in network.parameters():
        parameter.data.zero_()
    network.head.bias.data.fill_(0.5)
    kept: list[Batch] = []
    with_advantages = agent.with_advantages
    agent.with_advantages = lambda rollout: kept.append(with_advantages(rollout)) or kept[-1]
    next(progress for progress in training_loop(make_train_state(agent, CONTINUOUS), 1000) if progress.metrics)
    (batch,) = kept
    assert set(batch.extras["value"].tolist()) == {500.0}
