"""The buffer keeps the last steps, whole and of the right task, for both of its readers.

Shapes: T rows of time, N slots, M tasks, B batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mtrl.buffer import rollout_buffer as buffer_module
from mtrl.buffer.rollout_buffer import RolloutBuffer, buffer_bytes, share_out
from mtrl.checkpoints.store import CheckpointStore
from mtrl.errors import BadInput
from mtrl.seeding import stream
from mtrl.testing.attributes import differences, leaves
from mtrl.testing.counting_suite import CountingSuite
from mtrl.types import ActionStep, EnvStep, SuiteSpec, TaskSpec
from tests.env.counting import NumberedEpisodes, Player, audit, counting_suite

SUITE = counting_suite()


def new_buffer(capacity: int, num_envs: int = 4, suite: CountingSuite = SUITE, seed: int = 1) -> RolloutBuffer:
    return RolloutBuffer(suite.spec, num_envs, capacity, seed)


def test_only_the_last_rows_are_kept() -> None:
    buffer = new_buffer(capacity=6)
    player, rewards = Player(SUITE, buffer), []
    for played in range(1, 20):
        rewards.append(player.step().reward)
        assert buffer.num_rows == min(played, 6)
        assert buffer.rows_added == played
        assert buffer.task_sizes.sum() == 4 * buffer.num_rows
        np.testing.assert_array_equal(buffer.rollout().reward.numpy(), np.stack(rewards[-6:]))


def test_every_row_is_whole_at_every_fill_level_and_across_the_seam() -> None:
    # Also when the newest row is the last of an episode, and when it is not.
    buffer = new_buffer(capacity=5)
    player = Player(SUITE, buffer)
    for _ in range(40):
        player.step()
        audit(buffer.rollout(), SUITE)
        audit(buffer.sample(64), SUITE)


def test_a_hundred_thousand_transitions_hold_no_mixed_episodes() -> None:
    # Every episode has a number of its own, so a row that joined two of them would be seen.
    suite = counting_suite(num_variations=None, max_episode_steps=9)
    buffer = RolloutBuffer(suite.spec, 50, 2000, 1)
    Player(suite, buffer, NumberedEpisodes(3, 50)).play(2700)
    batch = buffer.rollout()
    assert batch.reward.numel() == 100_000
    audit(batch, suite)
    flags = torch.stack([batch.terminated.flatten(), batch.truncated.flatten()], dim=1)
    assert len(flags.unique(dim=0)) == 4  # every row of the truth table occurs
    audit(buffer.sample(5000), suite)


def test_a_rollout_is_in_time_order_with_slots_side_by_side() -> None:
    buffer = new_buffer(capacity=8)
    player = Player(SUITE, buffer)
    player.play(11)
    batch = buffer.rollout()
    assert batch.observation.shape == (8, 4, 5)
    assert batch.counts == tuple(buffer.task_sizes.tolist())
    np.testing.assert_allclose(batch.shares.numpy(), buffer.task_sizes / 32)
    running = ~(batch.terminated | batch.truncated)[:-1]
    assert torch.equal(batch.next_observation[:-1][running], batch.observation[1:][running])


def test_a_cleared_buffer_begins_anew() -> None:
    buffer = new_buffer(capacity=8)
    player = Player(SUITE, buffer)
    for _ in range(5):
        player.play(6)
        assert buffer.rollout().reward.shape == (6, 4)
        audit(buffer.rollout(), SUITE)
        buffer.clear()
        assert buffer.num_rows == buffer.task_sizes.sum() == 0


def test_sample_gives_every_task_an_equal_share_in_task_order() -> None:
    buffer = new_buffer(capacity=50)
    Player(SUITE, buffer).play(50)
    batch = buffer.sample(32)
    assert sorted(batch.counts) == [10, 11, 11]
    assert torch.equal(batch.task_ids, torch.arange(3).repeat_interleave(torch.tensor(batch.counts)))
    np.testing.assert_allclose(batch.shares.numpy(), np.array(batch.counts) / 32)
    audit(batch, SUITE)


def test_sample_follows_the_weights() -> None:
    buffer = new_buffer(capacity=50)
    Player(SUITE, buffer).play(50)
    assert buffer.sample(32, np.array([0.5, 0.0, 1.5])).counts == (8, 0, 24)


def test_a_task_without_rows_leaves_its_share_to_the_others() -> None:
    buffer = new_buffer(capacity=50, num_envs=1)
    player = Player(SUITE, buffer)
    player.envs.set_task_weights(np.array([1.0, 0.0, 1.0]))
    player.observation = player.envs.reset()
    player.play(30)
    assert buffer.task_sizes[1] == 0
    assert buffer.sample(32).counts == (16, 0, 16)


def test_weights_on_tasks_without_rows_alone_leave_equal_shares() -> None:
    # A scheduler may turn to a task that no slot has played yet.
    buffer = new_buffer(capacity=50, num_envs=1)
    player = Player(SUITE, buffer)
    player.envs.set_task_weights(np.array([1.0, 0.0, 1.0]))
    player.observation = player.envs.reset()
    player.play(30)
    assert buffer.sample(32, np.array([0.0, 1.0, 0.0])).counts == (16, 0, 16)


def test_an_empty_buffer_says_so() -> None:
    with pytest.raises(ValueError, match="nothing to share out"):
        new_buffer(capacity=5).sample(4)


def test_draws_are_uniform_within_a_task_while_slots_change_tasks() -> None:
    suite = counting_suite(num_variations=None)
    buffer = RolloutBuffer(suite.spec, 4, 60, 1)
    Player(suite, buffer, NumberedEpisodes(3, 4)).play(100)
    sizes = buffer.task_sizes.copy()
    drawn = buffer.sample(3 * 60_000)
    # (task, episode, step) identifies a row.
    for task in range(3):
        own = drawn.observation[drawn.task_ids == task][:, :4]
        counts = own.unique(dim=0, return_counts=True)[1].double()
        assert len(counts) == sizes[task]
        expected = 60_000 / sizes[task]
        degrees = sizes[task] - 1
        assert ((counts - expected) ** 2 / expected).sum() < degrees + 5 * (2 * degrees) ** 0.5


def test_the_agents_extras_come_back_with_their_rows() -> None:
    buffer = RolloutBuffer(SUITE.spec, 2, 5, 1, {"log_prob": (), "route": (3,)})
    envs = Player(SUITE, new_buffer(5, num_envs=2)).envs
    observation = envs.reset()
    for number in range(9):
        extras = {"log_prob": np.full(2, number, np.float32), "route": np.full((2, 3), -number, np.float32)}
        step = envs.step(np.zeros((2, 2), np.float32))
        buffer.add(observation, ActionStep(np.zeros((2, 2), np.float32), extras), step)
        observation = step.observation
    batch = buffer.rollout()
    assert batch.extras["log_prob"][:, 0].tolist() == [4, 5, 6, 7, 8]
    assert batch.extras["route"].shape == (5, 2, 3)
    assert torch.equal(batch.extras["route"][..., 0], -batch.extras["log_prob"])


def test_rows_are_copies_that_later_steps_do_not_change() -> None:
    buffer = new_buffer(capacity=4)
    player = Player(SUITE, buffer)
    player.play(6)
    batch = buffer.rollout()
    kept = leaves(batch.columns())
    player.play(6)
    assert leaves(batch.columns()) == kept


def contents(buffer: RolloutBuffer) -> dict[str, object]:
    """What two equal buffers have in common, their next draws included; draws from the buffer's stream."""
    found = {"state": buffer.state(), "sizes": buffer.task_sizes, "finals": len(buffer._finals)}
    if buffer.num_rows:
        found |= {"rollout": vars(buffer.rollout()), "sample": vars(buffer.sample(40))}
    return leaves(found)


def saved_chunks(buffer: RolloutBuffer) -> Iterator[tuple[str, dict[str, Tensor]]]:
    return ((chunk.name, dict(chunk.tensors())) for chunk in list(buffer.chunks()))


def test_a_buffer_comes_back_whole_from_every_fill_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_module, "CHUNK_ROWS", 4)
    original = new_buffer(capacity=10)
    player = Player(SUITE, original)
    for _ in range(36):
        restored = new_buffer(capacity=10, seed=2)
        restored.load_state(original.state(), saved_chunks(original))
        left, right = contents(original), contents(restored)
        assert left == right, differences(left, right)
        player.step()


def test_a_restored_buffer_goes_on_like_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_module, "CHUNK_ROWS", 4)
    original, restored = new_buffer(capacity=10), new_buffer(capacity=10, seed=2)
    player = Player(SUITE, original)
    player.play(17)
    restored.load_state(original.state(), saved_chunks(original))
    player.buffer = restored
    for _ in range(25):
        step, observation = None, player.observation
        step = player.step()
        action = restored.rollout().action[-1].numpy()
        original.add(observation, ActionStep(action), step)
        left, right = contents(original), contents(restored)
        assert left == right, differences(left, right)


def test_a_buffer_survives_a_chain_of_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Full chunks are linked from one checkpoint to the next, also after their first rows have left the ring.
    monkeypatch.setattr(buffer_module, "CHUNK_ROWS", 4)
    store = CheckpointStore(tmp_path / "checkpoints")
    buffer = new_buffer(capacity=10)
    player = Player(SUITE, buffer)
    for played in (0, 3, 7, 9, 11, 14, 18, 40):
        player.play(played - buffer.rows_added)
        store.save(played, buffer.state(), buffer.chunks(), info={})
        if played in (9, 14):  # a resume in between
            store = CheckpointStore(tmp_path / "checkpoints")
        checkpoint = store.load("latest")
        restored = new_buffer(capacity=10, seed=2)
        restored.load_state(checkpoint.state, checkpoint.chunks())
        left, right = contents(buffer), contents(restored)
        assert left == right, differences(left, right)
        player.buffer = buffer = restored


def test_a_larger_buffer_takes_up_a_smaller_one_and_the_other_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    # A longer run has a larger ring; a smaller ring keeps the newest rows.
    monkeypatch.setattr(buffer_module, "CHUNK_ROWS", 4)
    original = new_buffer(capacity=10)
    Player(SUITE, original).play(23)
    larger, smaller = new_buffer(capacity=25), new_buffer(capacity=3)
    larger.load_state(original.state(), saved_chunks(original))
    smaller.load_state(original.state(), saved_chunks(original))
    assert leaves(vars(larger.rollout())) == leaves(vars(original.rollout()))
    assert smaller.num_rows == 3
    assert torch.equal(smaller.rollout().next_observation, original.rollout().next_observation[-3:])
    assert smaller.task_sizes.sum() == 12


def metaworld_like(num_tasks: int) -> SuiteSpec:
    return SuiteSpec(
        name="large",
        tasks=tuple(TaskSpec(name=str(index), index=index, max_episode_steps=500) for index in range(num_tasks)),
        observation_space=gym.spaces.Box(-np.inf, np.inf, (39,), np.float32),
        action_space=gym.spaces.Box(-1, 1, (4,), np.float32),
        protocol="none",
    )


def test_a_meta_world_transition_takes_at_most_220_bytes() -> None:
    suite, rows = metaworld_like(10), 10_000
    buffer = RolloutBuffer(suite, 10, rows, 1)
    observation, action = np.zeros((10, 39), np.float32), np.zeros((10, 4), np.float32)
    zeros = np.zeros(10, bool)
    for row in range(rows):
        ended = np.full(10, row % 500 == 499)
        step = EnvStep(np.arange(10), observation, np.zeros(10, np.float32), zeros, ended, observation, ())
        buffer.add(observation, ActionStep(action), step)
    assert buffer.num_rows == rows
    assert buffer.num_bytes <= 220 * 10 * rows


@pytest.mark.parametrize("extras", [{}, {"log_prob": (), "route": (3,)}])
def test_the_memory_of_a_full_buffer_is_known_before_it_is_made(extras: dict[str, tuple[int, ...]]) -> None:
    suite = metaworld_like(10)
    buffer = RolloutBuffer(suite, 10, 2000, 1, extras)
    columns = sum(column.nbytes for column in buffer._columns.values())
    ids = 4 * 10 * (2000 + suite.frame_stack)
    assert buffer_bytes(suite, 10, 2000, extras) == columns + ids


def test_more_rows_than_32_bit_ids_are_refused() -> None:
    with pytest.raises(BadInput, match="32-bit row ids"):
        RolloutBuffer(metaworld_like(1), 1000, 2**21 + 2**17, 1)


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=50), st.integers(1, 5000), st.integers(0, 2**32))
def test_a_batch_is_shared_out_whole_and_to_within_one(shares: list[float], total: int, seed: int) -> None:
    weights, generator = np.array(shares), stream(seed, "shares")
    if not weights.sum() > 0:
        with pytest.raises(ValueError, match="nothing to share out"):
            share_out(weights, total, generator)
        return
    counts = share_out(weights, total, generator)
    exact = weights / weights.sum() * total
    assert counts.sum() == total
    assert (np.abs(counts - exact) < 1 + 1e-5).all()
    assert (counts[weights == 0] == 0).all()


@pytest.mark.parametrize(
    ("shares", "total"), [(np.ones(3), 8), (np.ones(50), 32), (np.array([0.26, 0.28, 0.0, 0.46]), 10)]
)
def test_shares_are_exact_in_expectation(shares: np.ndarray, total: int) -> None:
    generator = stream(1, "shares")
    counts = np.stack([share_out(shares, total, generator) for _ in range(4000)])
    # Four standard errors of a rounding that is up with any probability.
    np.testing.assert_allclose(counts.mean(0), shares / shares.sum() * total, atol=4 * 0.5 / 4000**0.5)


def test_whole_shares_need_no_random_number() -> None:
    generator, before = stream(1, "shares"), stream(1, "shares").bit_generator.state
    assert share_out(np.array([0.5, 0.3, 0.2]), 10, generator).tolist() == [5, 3, 2]
    assert share_out(np.full(10, 0.1), 1280, generator).tolist() == 10 * [128]
    assert generator.bit_generator.state == before
