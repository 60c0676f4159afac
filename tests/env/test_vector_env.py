"""What every vector environment does for its backend: episodes, auto-reset, state and faults.

Shapes: N slots, M tasks.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

from mtrl.checkpoints.store import CheckpointStore
from mtrl.env.episodes import IDLE, ListedEpisodes, RandomEpisodes
from mtrl.errors import Diverged, WorkerFailure
from mtrl.seeding import stream
from mtrl.testing.attributes import differences, leaves
from mtrl.testing.counting_suite import CountingEnvs
from mtrl.types import EnvStep
from mtrl.env.vector_env import RawStep
from tests.env.counting import counting_suite

SUITE = counting_suite()


def envs(num_envs: int = 4, seed: int = 1) -> CountingEnvs:
    return CountingEnvs(SUITE, num_envs, RandomEpisodes(SUITE.spec, num_envs, seed))


def zeros(num_envs: int = 4) -> np.ndarray:
    return np.zeros((num_envs, 2), np.float32)


def test_a_transition_belongs_to_the_task_that_was_played() -> None:
    played = envs()
    observation = played.reset()
    for _ in range(40):
        step = played.step(zeros())
        assert np.array_equal(step.task_ids, observation[:, 0])
        assert np.array_equal(step.final_observation[:, 0], step.task_ids)
        assert np.array_equal(step.observation[:, 0], played.task_ids)
        observation = step.observation


def test_finished_episodes_are_counted_from_reset_to_end() -> None:
    played = envs()
    played.reset()
    returns, finished = np.zeros(4), 0
    for _ in range(60):
        step = played.step(zeros())
        returns += step.reward
        for episode in step.episodes:
            length = SUITE.lengths(np.array(episode.task), np.array(episode.variation))
            assert episode.length == length
            assert episode.return_ == returns[episode.slot] == sum(range(1, length + 1))
            # The success was at the first step, and still counts at the end.
            assert episode.success == (episode.variation % 2 == 0)
            returns[episode.slot] = 0
            finished += 1
    assert finished > 20


def test_new_task_weights_wait_for_the_step_that_is_in_flight() -> None:
    played = envs()
    played.reset()
    for _ in range(20):
        played.send(zeros())
        planned = played.episodes.peek()[0]
        played.set_task_weights(np.array([0.0, 0.0, 1.0]))
        step = played.recv()
        ended = step.terminated | step.truncated
        assert np.array_equal(played.task_ids[ended], planned[ended])
        played.set_task_weights(np.ones(3))


def test_the_steps_it_returns_are_copies() -> None:
    played = envs()
    first = played.reset()
    steps: list[EnvStep] = [played.step(zeros()) for _ in range(2)]
    kept = copy.deepcopy((first, steps))
    for _ in range(9):
        played.step(zeros())
    assert leaves((first, steps)) == leaves(kept)


def test_changing_the_sent_action_afterwards_changes_nothing() -> None:
    played = envs()
    played.reset()
    action = zeros()
    played.send(action)
    action[:] = 1
    assert (played.recv().final_observation[:, 4] == 0).all()


def test_send_and_recv_take_turns() -> None:
    played = envs()
    played.reset()
    with pytest.raises(RuntimeError, match="recv was called without send"):
        played.recv()
    played.send(zeros())
    with pytest.raises(RuntimeError, match="send was called twice"):
        played.send(zeros())


def test_actions_of_another_shape_are_refused() -> None:
    played = envs()
    played.reset()
    with pytest.raises(ValueError, match=r"actions have shape \(4, 3\), expected \(4, 2\)"):
        played.send(np.zeros((4, 3), np.float32))


def test_running_episodes_come_back_through_a_checkpoint(tmp_path: Path) -> None:
    generator = stream(1, "actions")

    def action() -> np.ndarray:
        return generator.integers(-4, 5, size=(4, 2)).astype(np.float32) / 4

    original = envs()
    observation = original.reset()
    for played in range(25):
        store = CheckpointStore(tmp_path / f"{played}")
        store.save(played, original.state(), info={})
        ahead, restored = copy.deepcopy(original), envs(seed=2)
        assert np.array_equal(restored.load_state(store.load("latest").state), observation)
        for _ in range(8):
            chosen = action()
            left, right = leaves(ahead.step(chosen)), leaves(restored.step(chosen))
            assert left == right, differences(left, right)
        observation = original.step(action()).observation


class BrokenEnvs(CountingEnvs):
    """Gives one value that is not finite in slot 2."""

    broken = "reward"

    def _recv(self) -> RawStep:
        raw = super()._recv()
        values = raw._asdict()[self.broken]
        values[2] = np.nan
        return raw


@pytest.mark.parametrize("broken", ["reward", "final_observation"])
def test_a_value_that_is_not_finite_is_named_with_its_task_and_slot(broken: str) -> None:
    played = BrokenEnvs(SUITE, 4, ListedEpisodes([[(0, 1)], [(1, 6)], [(1, 12)], [(2, 9)]]))
    played.broken = broken
    played.reset()
    what = broken.removeprefix("final_")
    message = f"{what} is not finite: task count-1, slot 2, variation 12, step 1 of its episode"
    with pytest.raises(Diverged, match=message):
        played.step(zeros())


def test_an_action_that_is_not_finite_is_not_sent() -> None:
    played = envs()
    played.reset()
    action = zeros()
    action[3, 1] = np.inf
    with pytest.raises(Diverged, match=r"action is not finite: task count-\d, slot 3, variation \d+, step 1"):
        played.send(action)
    played.step(zeros())  # nothing is in flight


def test_a_resting_slot_is_not_looked_at() -> None:
    played = BrokenEnvs(SUITE, 4, ListedEpisodes([[(0, 3)], [(0, 3)], [], [(0, 3)]]))
    played.reset()
    for _ in range(6):
        step = played.step(zeros())
        assert not step.terminated[2]
        assert not step.truncated[2]
    assert (played.task_ids == IDLE).all()


class EndlessEnvs(CountingEnvs):
    """Goes on where an episode is over."""

    def _recv(self) -> RawStep:
        raw = super()._recv()
        return raw._replace(terminated=raw.terminated & False, truncated=raw.truncated & False)


def test_an_episode_that_does_not_end_is_named() -> None:
    played = EndlessEnvs(SUITE, 2, ListedEpisodes([[(1, 6)], [(1, 12)]]))
    played.reset()
    for _ in range(7):
        played.step(zeros(2))
    message = "an episode did not end: task count-1, slot 0, variation 6, after 7 steps, its max_episode_steps"
    with pytest.raises(WorkerFailure, match=message):
        played.step(zeros(2))
