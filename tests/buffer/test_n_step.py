"""Transitions that are followed for several steps: to the end of the episode, and no further than the newest row."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from agents.critics import n_step_return
from agents.sac import SAC
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.normalization import normalizers
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from mtrl.types import EnvStep
from tests.agents.constants import batch_of, sac
from tests.env.counting import NumberedEpisodes, Player, counting_suite

SUITE = counting_suite(num_variations=None)
NUM_ENVS = 4

Row = tuple[np.float32, bool, bool, np.ndarray]


def remember(played: dict[bytes, Row], step: EnvStep, observation: np.ndarray) -> None:
    for slot in range(NUM_ENVS):
        successor = step.final_observation[slot].copy()
        played[observation[slot].tobytes()] = (
            step.reward[slot],
            bool(step.terminated[slot]),
            bool(step.truncated[slot]),
            successor,
        )


@pytest.mark.parametrize("n_step", [2, 3, 9])
def test_every_transition_is_followed_to_the_end_of_its_episode_at_every_fill_level(n_step: int) -> None:
    buffer = RolloutBuffer(SUITE.spec, NUM_ENVS, 5, 1)
    player = Player(SUITE, buffer, NumberedEpisodes(SUITE.spec.num_tasks, NUM_ENVS))
    played: dict[bytes, Row] = {}
    for _ in range(40):
        observation = player.observation.copy()
        remember(played, player.step(), observation)
        batch = buffer.sample(48, n_step=n_step)
        for row in range(48):
            rewards, length = np.zeros(n_step, np.float32), 0
            at = batch.observation[row].numpy()
            terminated = truncated = False
            while length < n_step and not (terminated or truncated) and at.tobytes() in played:
                rewards[length], terminated, truncated, at = played[at.tobytes()]
                length += 1
            assert batch.extras["n_step_length"][row] == length
            np.testing.assert_array_equal(batch.extras["n_step_rewards"][row].numpy(), rewards)
            assert batch.reward[row] == rewards[0]
            assert (bool(batch.terminated[row]), bool(batch.truncated[row])) == (terminated, truncated)
            np.testing.assert_array_equal(batch.next_observation[row].numpy(), at)


def test_a_batch_of_n_steps_begins_with_the_rows_of_one_of_single_steps() -> None:
    buffers = [RolloutBuffer(SUITE.spec, NUM_ENVS, 20, 1) for _ in range(2)]
    for buffer in buffers:
        Player(SUITE, buffer).play(15)
    single, several = buffers[0].sample(32), buffers[1].sample(32, n_step=4)
    assert not single.extras
    for name in ("observation", "action", "reward", "task_ids"):
        assert torch.equal(getattr(single, name), getattr(several, name))


def test_the_return_of_n_steps_by_hand() -> None:
    # 1 + 0.5 * 2 + 0.25 * 4 = 3, then the value counts 0.125; an episode that ends after one step: 1, then 0.5.
    extras = {
        "n_step_rewards": torch.tensor([[1.0, 2.0, 4.0], [1.0, 0.0, 0.0]]),
        "n_step_length": torch.tensor([3, 1]),
    }
    batch = batch_of([0, 1], extras=extras)
    none, clip = (normalizers.get(name)(3, normalizers.get(name).Config(), 0.5) for name in ("none", "reward-clip"))
    reward, discount = n_step_return(batch, none, 0.5)
    assert (reward.tolist(), torch.as_tensor(discount).tolist()) == ([3.0, 1.0], [0.125, 0.5])
    # Each reward is clipped, not their sum: 1 + 0.5 + 0.25.
    assert n_step_return(batch, clip, 0.5)[0].tolist() == [1.75, 1.0]


def test_sac_bootstraps_after_n_steps() -> None:
    agent = sac(n_step=3, discount=0.5)
    extras = {"n_step_rewards": torch.tensor([[1.0, 2.0, 4.0]] * 3), "n_step_length": torch.tensor([3, 3, 2])}
    batch = batch_of([0, 1, 2], reward=torch.tensor([1.0] * 3), extras=extras)
    one = agent.bellman_target(batch_of([0, 1, 2]))  # reward 0: half of the value that follows
    torch.testing.assert_close(
        agent.bellman_target(batch), torch.tensor([3.0] * 3) + one * torch.tensor([0.25, 0.25, 0.5])
    )


def test_sac_learns_from_n_steps() -> None:
    suite = counting_suite()
    agent = make_agent(SAC, SAC.Config(learning_starts=20, batch_size=16, n_step=3), suite.spec)
    learned = (progress for progress in training_loop(make_train_state(agent, suite), 400) if progress.metrics)
    for progress in islice(learned, 5):
        assert all(torch.isfinite(value).all() for value in progress.metrics.values())
