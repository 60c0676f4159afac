"""Frames are stored once, and stacks read back are those that went in: next to a buffer that stores whole stacks.

Shapes: N slots, F frames per observation, 5 numbers per frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import pytest
import torch

from mtrl.buffer import rollout_buffer as buffer_module
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.env.episodes import RandomEpisodes
from mtrl.seeding import stream
from mtrl.testing.attributes import differences, leaves
from mtrl.types import ActionStep, Batch, EnvStep, SuiteSpec
from tests.env.counting import counting_suite

SUITE = counting_suite()
NUM_SLOTS = 4


def stacked_suite(frames: int, stored_as: int) -> SuiteSpec:
    space = gym.spaces.Box(-np.inf, np.inf, (5 * frames,), np.float32)
    return dataclasses.replace(SUITE.spec, observation_space=space, frame_stack=stored_as)


class StackingPlayer:
    """Plays the counting suite, stacks its observations with zeros before an episode, and fills buffers alike."""

    def __init__(self, frames: int, buffers: list[RolloutBuffer]):
        self.frames, self.buffers = frames, buffers
        self.envs = SUITE.make_envs(
            NUM_SLOTS, RandomEpisodes(SUITE.spec, NUM_SLOTS, 1), mode="train", num_workers=0, worker_timeout=1.0
        )
        self.generator = stream(1, "actions")
        self.restart()

    def restart(self) -> None:
        self.stack = np.zeros((NUM_SLOTS, self.frames, 5), np.float32)
        self.stack[:, -1] = self.envs.reset()

    def play(self, num_steps: int) -> None:
        for _ in range(num_steps):
            observation = self.stack.reshape(NUM_SLOTS, -1).copy()
            action = self.generator.integers(-4, 5, size=(NUM_SLOTS, 2)).astype(np.float32) / 4
            step = self.envs.step(action)
            stack = np.concatenate([self.stack[:, 1:], step.final_observation[:, None]], axis=1)
            final = stack.reshape(NUM_SLOTS, -1).copy()
            ended = step.terminated | step.truncated
            stack[ended] = 0
            stack[:, -1] = step.observation
            self.stack = stack
            stacked: EnvStep = dataclasses.replace(
                step, observation=stack.reshape(NUM_SLOTS, -1).copy(), final_observation=final
            )
            for buffer in self.buffers:
                buffer.add(observation, ActionStep(action), stacked)


def pair(frames: int, capacity: int) -> tuple[RolloutBuffer, RolloutBuffer]:
    """A buffer of single frames and one of whole stacks."""
    single = RolloutBuffer(stacked_suite(frames, frames), NUM_SLOTS, capacity, 1)
    return single, RolloutBuffer(stacked_suite(frames, 1), NUM_SLOTS, capacity, 1)


def assert_same(first: Batch, second: Batch) -> None:
    left, right = leaves(first.columns()), leaves(second.columns())
    assert left == right, differences(left, right)


@pytest.mark.parametrize("frames", [2, 3, 4, 6])
def test_stacks_come_back_as_they_went_in_at_every_fill_level(frames: int) -> None:
    buffers = pair(frames, capacity=9)
    player = StackingPlayer(frames, list(buffers))
    for _ in range(60):
        player.play(1)
        assert_same(buffers[0].rollout(), buffers[1].rollout())
        assert_same(buffers[0].sample(32), buffers[1].sample(32))


def test_a_rollout_begins_with_the_frames_before_it() -> None:
    # After `clear` the rows before are no longer stored, but an episode runs on and its stacks reach back to them.
    buffers = pair(4, capacity=2)
    player = StackingPlayer(4, list(buffers))
    for _ in range(30):
        player.play(2)
        assert_same(buffers[0].rollout(), buffers[1].rollout())
        for buffer in buffers:
            buffer.clear()


def test_a_buffer_that_begins_in_the_middle_of_an_episode_keeps_what_the_first_stack_shows() -> None:
    player = StackingPlayer(4, [])
    player.play(3)
    buffers = pair(4, capacity=9)
    player.buffers = list(buffers)
    player.play(5)
    assert_same(buffers[0].rollout(), buffers[1].rollout())


def saved_chunks(buffer: RolloutBuffer) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    return ((chunk.name, dict(chunk.tensors())) for chunk in list(buffer.chunks()))


@pytest.mark.parametrize("capacity", [10, 25, 3])
def test_stacks_survive_saving_into_a_ring_of_any_size(capacity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_module, "CHUNK_ROWS", 4)
    frames = 4
    original, whole = pair(frames, capacity=10)
    player = StackingPlayer(frames, [original, whole])
    for _ in range(40):
        player.play(1)
        restored, restored_whole = pair(frames, capacity)
        restored.load_state(original.state(), saved_chunks(original))
        restored_whole.load_state(whole.state(), saved_chunks(whole))
        assert_same(restored.rollout(), restored_whole.rollout())


def test_a_restored_buffer_of_stacks_goes_on_like_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_module, "CHUNK_ROWS", 4)
    original, whole = pair(4, capacity=10)
    player = StackingPlayer(4, [original, whole])
    player.play(17)
    for played in range(25):
        restored, _ = pair(4, capacity=10)
        restored.load_state(original.state(), saved_chunks(original))
        player.buffers = [original, restored, whole]
        player.play(1 + played % 3)
        assert_same(original.rollout(), whole.rollout())
        assert_same(restored.rollout(), whole.rollout())


def test_a_cleared_buffer_is_saved_with_the_frames_before_its_next_row() -> None:
    original, whole = pair(4, capacity=3)
    player = StackingPlayer(4, [original, whole])
    for _ in range(20):
        player.play(3)
        original.clear()
        whole.clear()
        restored, _ = pair(4, capacity=3)
        restored.load_state(original.state(), saved_chunks(original))
        player.buffers = [original, restored, whole]
        player.play(3)
        assert_same(original.rollout(), whole.rollout())
        assert_same(restored.rollout(), whole.rollout())


@pytest.mark.parametrize("cleared", [False, True])
def test_episodes_that_cannot_go_on_are_truncated_at_the_newest_row(cleared: bool) -> None:
    buffers = pair(4, capacity=10)
    player = StackingPlayer(4, list(buffers))
    player.play(6)
    before = buffers[0].rollout()
    for buffer in buffers:
        if cleared:
            buffer.clear()
        buffer.end_running_episodes()
    player.restart()
    player.play(4)
    assert_same(buffers[0].rollout(), buffers[1].rollout())
    if not cleared:
        after = buffers[0].rollout()
        assert (after.terminated | after.truncated)[5].all()
        assert torch.equal(after.terminated[:6], before.terminated)
        assert torch.equal(after.next_observation[:6], before.next_observation)
    # The first stacks of the new episodes show nothing of the old ones.
    first = buffers[0].rollout().observation[-4].unflatten(1, (4, 5))
    assert not first[:, :-1].any()


def test_an_end_of_running_episodes_is_saved_also_at_a_chunks_last_row(monkeypatch: pytest.MonkeyPatch) -> None:
    # A full chunk is linked from checkpoint to checkpoint, so its newest row must not change afterwards.
    monkeypatch.setattr(buffer_module, "CHUNK_ROWS", 4)
    buffer, _ = pair(4, capacity=20)
    StackingPlayer(4, [buffer]).play(8)
    chunks = list(buffer.chunks())
    assert [chunk.complete for chunk in chunks] == [True, False]
    before = {chunk.name: leaves(dict(chunk.tensors())) for chunk in chunks}
    buffer.end_running_episodes()
    after = {chunk.name: leaves(dict(chunk.tensors())) for chunk in buffer.chunks()}
    assert [before[chunk.name] == after[chunk.name] for chunk in chunks] == [True, False]


def test_an_atari_step_takes_at_most_7500_bytes_at_any_stack_depth() -> None:
    for frames in (1, 4, 8):
        spec = dataclasses.replace(
            SUITE.spec,
            observation_space=gym.spaces.Box(0, 255, (frames, 84, 84), np.uint8),
            action_space=gym.spaces.Discrete(18),
            frame_stack=frames,
        )
        buffer, rows = RolloutBuffer(spec, 2, 1000, 1), 1000
        observation = np.zeros((2, frames, 84, 84), np.uint8)
        nothing = np.zeros(2, bool)
        for row in range(rows):
            ended = np.full(2, row % 200 == 199)
            step = EnvStep(np.arange(2), observation, np.zeros(2, np.float32), ended, nothing, observation, ())
            buffer.add(observation, ActionStep(np.zeros(2, np.int64)), step)
        assert buffer.num_rows == rows
        assert buffer.num_bytes <= 7500 * 2 * rows


def test_observations_that_are_no_stack_of_frames_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(5,\) are no stack of 2 frames"):
        dataclasses.replace(SUITE.spec, frame_stack=2)
