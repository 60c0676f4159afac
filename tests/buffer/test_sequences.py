"""Short sequences of stored steps. Shapes: B batch, K steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.sac import SAC
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from mtrl.types import Batch
from tests.agents.constants import CONTINUOUS


@pytest.fixture(scope="module")
def buffer():  # type: ignore[no-untyped-def]
    agent = make_agent(SAC, SAC.Config(learning_starts=10_000), CONTINUOUS.spec)
    state = make_train_state(agent, CONTINUOUS)
    for _ in training_loop(state, 400):
        pass
    return state.buffer


def check(batch: Batch, horizon: int) -> None:
    """In the counting suite an observation has its episode's variation and the number of its step."""
    following, valid = batch.extras["sequence_observation"], batch.extras["sequence_valid"]
    assert following.shape == (*batch.observation.shape[:1], horizon, *batch.observation.shape[1:])
    assert valid[:, 0].all()
    assert torch.equal(batch.extras["sequence_action"][:, 0], batch.action)
    assert torch.equal(batch.extras["sequence_reward"][:, 0], batch.reward)
    for step in range(horizon):
        there = valid[:, step]
        assert torch.equal(following[there, step, 3], batch.observation[there, 3] + step + 1)
        assert torch.equal(following[there, step, :3], batch.observation[there, :3])
        if step:
            assert not (valid[:, step] & ~valid[:, step - 1]).any()
    assert 0.2 < valid[:, -1].float().mean() < 1


def test_a_sequence_stays_within_the_episode_and_what_is_stored(buffer) -> None:  # type: ignore[no-untyped-def]
    check(buffer.sample(256, np.ones(3), horizon=3), 3)
    check(buffer.rollout(horizon=3).map_columns(lambda column: column.flatten(0, 1)), 3)


def test_with_targets_of_several_steps_the_first_successor_is_there(buffer) -> None:  # type: ignore[no-untyped-def]
    batch = buffer.sample(64, np.ones(3), n_step=4, horizon=1)
    first = batch.extras["sequence_observation"][:, 0]
    assert torch.equal(first[:, 3], batch.observation[:, 3] + 1)
    assert (batch.next_observation[:, 3] > first[:, 3]).any()


@pytest.mark.parametrize("horizon", [0, 1])
def test_what_the_batch_has_already_is_not_read_again(buffer, horizon: int) -> None:  # type: ignore[no-untyped-def]
    assert not buffer.sample(8, np.ones(3), horizon=horizon).extras
    assert not buffer.rollout(horizon).extras
