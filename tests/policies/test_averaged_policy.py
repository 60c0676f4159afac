"""The averaged policy: what evaluations play."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from agents.ppo import PPO
from agents.sac import SAC
from mtrl.agent import Agent
from mtrl.networks.modular.soft_modules import SoftModules
from mtrl.policies import AveragedPolicy
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from tests.env.counting import counting_suite

OBSERVATION, TASKS = np.ones((3, 5), np.float32), np.arange(3)


def one_number(value: float) -> Any:
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(value)
    network.register_buffer("share", torch.tensor(value))
    return network


def test_the_average_is_over_the_last_ninth_of_the_updates_at_first_and_then_moves_at_its_rate() -> None:
    encoder, policy = one_number(0.0), one_number(0.0)
    average = AveragedPolicy(encoder, policy, rate=0.5)
    expected = 0.0
    for update in range(1, 21):
        encoder.weight.data.fill_(float(update))
        policy.weight.data.fill_(float(update))
        average.update()
        rate = max(0.5, 9 / (9 + update))  # 0.9, 9/11, ... until 0.5 at the ninth
        expected += rate * (update - expected)
        assert average.encoder.weight.item() == average.policy.weight.item() == pytest.approx(expected)
    policy.share.fill_(7.0)
    average.update()
    assert average.policy.share.item() == 7.0  # counters and masks are no averages
    average.follow()
    assert average.policy.weight.item() == 20.0


def test_the_networks_it_follows_are_no_parts_of_it_and_a_copy_follows_its_own() -> None:
    agent = nn.Module()
    agent.policy = one_number(1.0)
    agent.average = AveragedPolicy(one_number(1.0), agent.policy, rate=1.0)
    assert not any("newest" in name for name in agent.average.state_dict())
    copied: Any = copy.deepcopy(agent)
    copied.policy.weight.data.fill_(3.0)
    copied.average.update()
    assert (copied.average.policy.weight.item(), agent.average.policy.weight.item()) == (3.0, 1.0)


def trained(cls: type[Agent], **components: Any) -> Any:
    suite = counting_suite("counting")
    config = {SAC: {"learning_starts": 20, "batch_size": 16}, PPO: {"rollout_steps": 8, "minibatches": 2}}[cls]
    agent = make_agent(cls, cls.Config(**config), suite.spec, **components)  # type: ignore[call-arg]
    for _ in training_loop(make_train_state(agent, suite), 120):
        pass
    return agent


@pytest.mark.parametrize("cls", [SAC, PPO])
def test_evaluations_play_the_average_and_exploration_the_newest_weights(cls: type[Agent]) -> None:
    agent = trained(cls, architecture=SoftModules)
    newest = agent.policy if cls is SAC else agent.networks.policy
    assert agent.average.num_updates > 5
    before = agent.act(OBSERVATION, TASKS, explore=False).action
    sampled = agent.sample(OBSERVATION, TASKS, torch.Generator().manual_seed(1))
    for parameter in newest.parameters():
        parameter.data.add_(1.0)
    np.testing.assert_array_equal(agent.act(OBSERVATION, TASKS, explore=False).action, before)
    np.testing.assert_array_equal(agent.sample(OBSERVATION, TASKS, torch.Generator().manual_seed(1)), sampled)
    agent.use_last_weights()
    assert not np.array_equal(agent.act(OBSERVATION, TASKS, explore=False).action, before)
    state = agent.state()["modules"]
    name = "policy" if cls is SAC else "networks.policy"
    own = [key for key in state if key.startswith(f"{name}.")]
    assert own
    assert all(torch.equal(state[key], state[f"average.policy{key.removeprefix(name)}"]) for key in own)
