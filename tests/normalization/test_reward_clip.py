"""Clipped rewards are what agents learn from, and nothing else of a run."""

from __future__ import annotations

from dataclasses import replace

import torch

from agents.ppo import PPO
from agents.sac import SAC
from mtrl.normalization import normalizers
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from tests.env.counting import counting_suite

SUITE = counting_suite()


def test_values_of_ppo_are_of_clipped_rewards() -> None:
    agent = make_agent(PPO, PPO.Config(rollout_steps=8, gae_lambda=0.0, discount=0.0), SUITE.spec, normalizer=clip())
    rollouts = []
    learn = agent.with_advantages
    agent.with_advantages = lambda rollout: rollouts.append((rollout, learn(rollout))) or rollouts[-1][1]
    state = make_train_state(agent, SUITE)
    list(training_loop(state, 4 * 8))
    (raw, learnt), *_ = rollouts
    assert raw.reward.max() > 1, "the counting suite's rewards grow with the step"
    torch.testing.assert_close(learnt.extras["return"], raw.reward.clamp(-1, 1).flatten())


def test_targets_of_sac_are_of_clipped_rewards() -> None:
    agent = make_agent(SAC, SAC.Config(batch_size=30, learning_starts=400, discount=0.0), SUITE.spec, normalizer=clip())
    state = make_train_state(agent, SUITE)
    list(training_loop(state, 4 * 40))
    batch = state.buffer.sample(30, state.scheduler.weights())
    assert batch.reward.max() > 1
    batch = replace(batch, noise={"next_action": torch.zeros(30, 2)})
    target = agent.bellman_target(batch)
    torch.testing.assert_close(target, batch.reward.clamp(-1, 1))


def clip() -> type:
    return normalizers.get("reward-clip")
