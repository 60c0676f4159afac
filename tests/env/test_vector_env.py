"""What every vector environment does for its backend: episodes, auto-reset, state and faults.

Shapes: N slots, M tasks.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtrl.checkpoints.store import CheckpointStore
from mtrl.env.episodes import IDLE, ListedEpisodes, RandomEpisodes
from mtrl.env.vector_env import RawStep
from mtrl.errors import Diverged, WorkerFailure
from mtrl.seeding import stream
from mtrl.testing.attributes import differences, leaves
from mtrl.testing.counting_suite import CountingEnvs
from mtrl.types import EnvStep
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
    """Gives `value` in slot 2 instead of one that belongs there."""

    def __init__(self, starts: list[list[tuple[int, int]]], broken: str = "reward", value: float = np.nan):
        super().__init__(SUITE, len(starts), ListedEpisodes(starts))
        self.broken, self.value = broken, value

    def _start(self, tasks: np.ndarray, variations: np.ndarray) -> np.ndarray:
        return self._spoilt("_start", super()._start(tasks, variations))

    def _replay(self, tasks: np.ndarray, variations: np.ndarray, actions: list[np.ndarray]) -> np.ndarray:
        return self._spoilt("_replay", super()._replay(tasks, variations, actions))

    def _recv(self) -> RawStep:
        return RawStep(*(self._spoilt(name, values) for name, values in super()._recv()._asdict().items()))

    def _spoilt(self, name: str, values: np.ndarray) -> np.ndarray:
        if name != self.broken:
            return values
        spoilt = values.copy()
        spoilt[2] = self.value
        return spoilt


BAD_VALUES = [
    (np.nan, "is not finite"),
    (-np.inf, "is not finite"),
    (1e30, r"is as large as 1e\+30"),
    (-2e15, r"is as large as 2e\+15"),
]


@pytest.mark.parametrize(("value", "said"), BAD_VALUES)
@pytest.mark.parametrize("broken", ["reward", "final_observation"])
def test_a_value_that_is_no_use_is_named_with_its_task_slot_and_step(broken: str, value: float, said: str) -> None:
    played = BrokenEnvs([[(0, 1)], [(1, 6)], [(1, 12)], [(2, 9)]], broken, value)
    played.reset()
    what = broken.removeprefix("final_")
    with pytest.raises(Diverged, match=f"^{what} {said}: task count-1, slot 2, variation 12, step 1 of its episode"):
        played.step(zeros())


@pytest.mark.parametrize(("value", "said"), BAD_VALUES)
def test_a_reset_observation_that_is_no_use_is_named(value: float, said: str) -> None:
    played = BrokenEnvs([[(0, 1)], [(1, 6)], [(1, 12)]], "_start", value)
    with pytest.raises(Diverged, match=f"^observation {said}: task count-1, slot 2, variation 12, the reset"):
        played.reset()


def test_the_first_observation_of_a_later_episode_is_named_by_that_episode() -> None:
    played = BrokenEnvs([[(0, 1)], [(1, 6)], [(1, 12), (0, 5)]], "nothing")
    played.reset()
    length = int(SUITE.lengths(np.array(1), np.array(12)))
    for _ in range(length - 1):
        played.step(zeros(3))
    played.broken = "observation"
    with pytest.raises(Diverged, match="observation is not finite: task count-0, slot 2, variation 5, the reset"):
        played.step(zeros(3))


def test_a_restored_observation_that_is_no_use_is_named() -> None:
    starts = [[(0, 1)], [(1, 6)], [(1, 12)]]
    original = BrokenEnvs(starts, "nothing")
    original.reset()
    original.step(zeros(3))
    with pytest.raises(Diverged, match="observation is not finite: task count-1, slot 2, variation 12, step 1 of its"):
        BrokenEnvs(starts, "_replay").load_state(original.state())


@pytest.mark.parametrize("value", [1e15, -1e15])
def test_large_values_within_the_bound_are_stored(value: float) -> None:
    played = BrokenEnvs([[(0, 1)], [(1, 6)], [(1, 12)]], "reward", value)
    played.reset()
    assert played.step(zeros(3)).reward[2] == np.float32(value)


def test_an_action_that_is_not_finite_is_not_sent() -> None:
    played = envs()
    played.reset()
    action = zeros()
    action[3, 1] = np.inf
    with pytest.raises(Diverged, match=r"action is not finite: task count-\d, slot 3, variation \d+, step 1"):
        played.send(action)
    played.step(zeros())  # nothing is in flight


def test_a_resting_slot_is_not_looked_at() -> None:
    played = BrokenEnvs([[(0, 3)], [(0, 3)], [], [(0, 3)]])
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


class FaultyEnvs(CountingEnvs):
    """Counts, until `fault` replaces a step."""

    def __init__(self, fault: Callable[[RawStep], Any]):
        super().__init__(SUITE, 4, RandomEpisodes(SUITE.spec, 4, 1))
        self.fault = fault

    def _recv(self) -> RawStep:
        step = super()._recv()
        if self.fault is sys.exit:
            sys.exit(0)
        return self.fault(step)


def drawer_is_stuck(step: RawStep) -> RawStep:
    raise LookupError("the drawer is stuck")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (drawer_is_stuck, "raised LookupError: the drawer is stuck"),
        (sys.exit, "raised SystemExit: 0"),
        (lambda step: None, "returned NoneType from _recv, expected a RawStep"),
        (
            lambda step: step._replace(observation=step.observation.astype(np.float64)),
            r"returned observation \(4, 5\) float64, expected \(4, 5\) float32",
        ),
        (
            lambda step: step._replace(final_observation=step.final_observation[:, :2]),
            r"returned final_observation \(4, 2\) float32, expected \(4, 5\) float32",
        ),
        (lambda step: step._replace(reward=[0.0] * 4), "returned list as reward, expected an array"),
        (
            lambda step: step._replace(reward=step.reward.astype(np.float64)),
            r"returned reward \(4,\) float64, expected \(4,\) float32",
        ),
        (
            lambda step: step._replace(terminated=step.terminated.astype(int)),
            r"returned terminated \(4,\) int64, expected \(4,\) bool",
        ),
    ],
)
def test_faults_of_an_environment_are_named_with_its_class_file_and_line(
    fault: Callable[[RawStep], Any], said: str
) -> None:
    played = FaultyEnvs(fault)
    played.reset()
    with pytest.raises(WorkerFailure, match=rf"^environment FaultyEnvs \(.*/test_vector_env\.py:\d+\) {said}(\n|$)"):
        played.step(zeros())


def test_a_first_observation_that_is_missing_is_named() -> None:
    class NoObservation(CountingEnvs):
        def _start(self, tasks: np.ndarray, variations: np.ndarray) -> np.ndarray:
            super()._start(tasks, variations)

    with pytest.raises(WorkerFailure, match=r"NoObservation \(.*:\d+\) returned NoneType as observation of _start"):
        NoObservation(SUITE, 4, RandomEpisodes(SUITE.spec, 4, 1)).reset()
