"""Which task and variation each slot plays next. Shapes: N slots, M tasks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtrl.env.episodes import IDLE, ListedEpisodes, RandomEpisodes
from mtrl.types import SuiteSpec
from tests.env.counting import counting_suite


def suite(num_tasks: int, num_variations: int | None = 50) -> SuiteSpec:
    return counting_suite(num_tasks=num_tasks, num_variations=num_variations).spec


def draws(episodes: RandomEpisodes, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Tasks and variations (rounds, N) of the coming episodes of every slot."""
    played = []
    for _ in range(rounds):
        played.append(episodes.peek())
        episodes.advance(np.arange(episodes.num_envs))
    tasks, variations = zip(*played, strict=True)
    return np.stack(tasks), np.stack(variations)


@pytest.mark.parametrize(("num_tasks", "per_task"), [(1, 1), (1, 4), (3, 1), (7, 3), (10, 2), (49, 2), (50, 4)])
def test_with_equal_weights_every_slot_keeps_its_task(num_tasks: int, per_task: int) -> None:
    tasks, _ = draws(RandomEpisodes(suite(num_tasks), num_tasks * per_task, 1), 200)
    assert (tasks == np.repeat(np.arange(num_tasks), per_task)).all()


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=12), st.integers(1, 40), st.integers(0, 100))
def test_every_task_gets_its_share_to_within_one_slot_at_any_time(
    weights: list[float], num_envs: int, seed: int
) -> None:
    episodes = RandomEpisodes(suite(len(weights)), num_envs, seed)
    episodes.set_task_weights(np.array(weights))
    wanted = np.array(weights) / sum(weights) * num_envs
    for _ in range(5):
        counts = np.bincount(episodes.peek()[0], minlength=len(weights))
        # A task's interval may cut the slots at both of its ends.
        assert (np.abs(counts - wanted) < 2).all()
        assert (np.abs(np.cumsum(counts) - np.cumsum(wanted)) < 1 + 1e-9).all()
        episodes.advance(np.arange(num_envs))


def test_over_many_episodes_every_task_gets_its_weight() -> None:
    episodes = RandomEpisodes(suite(3), 2, 1)
    episodes.set_task_weights(np.array([0.2, 0.0, 0.6]))
    tasks, _ = draws(episodes, 4000)
    rates = np.bincount(tasks.ravel(), minlength=3) / tasks.size
    np.testing.assert_allclose(rates, [0.25, 0, 0.75], atol=0.02)


def test_variations_are_uniform_and_all_of_them_occur() -> None:
    _, variations = draws(RandomEpisodes(suite(2), 4, 1), 5000)
    counts = np.bincount(variations.ravel(), minlength=50)
    assert len(counts) == 50
    assert ((counts - 400) ** 2 / 400).sum() < 49 + 5 * 98**0.5


def test_unlimited_variations_are_spread_over_many_numbers() -> None:
    _, variations = draws(RandomEpisodes(suite(2, None), 4, 1), 1000)
    assert len(np.unique(variations)) == variations.size
    assert 0 <= variations.min() < variations.max() < 2**48


def test_peeking_draws_nothing() -> None:
    episodes = RandomEpisodes(suite(5), 3, 1)
    first, second = episodes.peek(), episodes.peek()
    assert np.array_equal(first, second)


def test_a_slot_that_goes_on_leaves_the_others_where_they_are() -> None:
    episodes = RandomEpisodes(suite(5), 4, 1)
    episodes.set_task_weights(np.array([5, 1, 1, 1, 1]))
    before = np.stack(episodes.peek())
    for _ in range(10):
        episodes.advance(np.array([2]))
    after = np.stack(episodes.peek())
    assert np.array_equal(before[:, [0, 1, 3]], after[:, [0, 1, 3]])


def test_new_weights_change_the_task_of_the_next_episode_and_no_draw() -> None:
    episodes, other = RandomEpisodes(suite(2), 4, 1), RandomEpisodes(suite(2), 4, 1)
    other.set_task_weights(np.array([0.0, 1.0]))
    assert (other.peek()[0] == 1).all()
    assert np.array_equal(episodes.peek()[1], other.peek()[1])  # the variations have the same numbers
    other.set_task_weights(np.array([0.5, 0.5]))
    assert np.array_equal(episodes.peek(), other.peek())


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [-1.0, 2.0], [np.nan, 1.0]], ids=str)
def test_weights_that_make_no_sense_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="task weights must be 2 non-negative numbers"):
        RandomEpisodes(suite(2), 4, 1).set_task_weights(np.array(weights))


def test_drawn_episodes_go_on_from_a_saved_state() -> None:
    original, restored = RandomEpisodes(suite(5), 3, 1), RandomEpisodes(suite(5), 3, 2)
    original.set_task_weights(np.array([1, 2, 3, 4, 5]))
    draws(original, 7)
    restored.load_state(original.state())
    assert np.array_equal(draws(original, 20), draws(restored, 20))


def test_listed_episodes_are_played_once_in_order_and_then_the_slot_rests() -> None:
    episodes = ListedEpisodes([[(0, 3), (1, 4)], [], [(2, 5)]])
    seen = []
    for _ in range(3):
        seen.append(np.stack(episodes.peek(), axis=1).tolist())
        episodes.advance(np.arange(3))
    idle = [IDLE, 0]
    assert seen == [[[0, 3], idle, [2, 5]], [[1, 4], idle, idle], [idle, idle, idle]]


def test_listed_episodes_go_on_from_a_saved_state() -> None:
    lists = [[(0, 3), (1, 4)], [(2, 5)]]
    original, restored = ListedEpisodes(lists), ListedEpisodes(lists)
    original.advance(np.array([0]))
    restored.load_state(original.state())
    assert np.array_equal(original.peek(), restored.peek())


def test_the_episodes_of_an_evaluation_take_no_weights() -> None:
    with pytest.raises(TypeError, match="listed, not drawn"):
        ListedEpisodes([[]]).set_task_weights(np.ones(1))


def test_adding_a_task_leaves_every_slots_draws_unchanged() -> None:
    few, many = RandomEpisodes(suite(3), 4, 1), RandomEpisodes(suite(4), 4, 1)
    assert np.array_equal(draws(few, 30)[1], draws(many, 30)[1])
