"""Statistics over seeds: worked by hand, and against scipy.stats. Shapes: S seeds, M tasks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mtrl.report.statistics import (
    estimate,
    interquartile_mean,
    mean_band,
    performance_profile,
    probability_of_improvement,
    task_mean,
)


def test_the_interquartile_mean_drops_a_quarter_of_the_seeds_of_each_task() -> None:
    # Task 1: 0.2, 0.4 stay of 0, 0.2, 0.4, 1: 0.3. Task 2, in another order: 0.5, 0.7 stay: 0.6.
    scores = np.array([[0.0, 0.9], [0.2, 0.7], [0.4, 0.5], [1.0, 0.1]])
    assert interquartile_mean(scores) == pytest.approx((0.3 + 0.6) / 2)
    assert task_mean(scores) == pytest.approx((1.6 + 2.2) / 8)


def test_the_interquartile_mean_does_not_saturate_where_a_task_is_never_solved() -> None:
    # Of all 4 x 8 pairs of seed and task the middle half is 1; one task in eight is at 0.
    scores = np.ones((4, 8))
    scores[:, 0] = 0
    assert stats.trim_mean(scores, 0.25, axis=None) == 1
    assert interquartile_mean(scores) == pytest.approx(7 / 8)


def test_with_fewer_than_four_seeds_the_interquartile_mean_is_the_mean() -> None:
    scores = np.array([[0.0, 1.0], [0.6, 0.2], [0.3, 0.9]])
    assert interquartile_mean(scores) == pytest.approx(task_mean(scores))


def test_the_probability_of_improvement_counts_pairs_of_seeds() -> None:
    # Task 1: 2 beats 1, equals 2, 3 beats both: 3.5 of 4. Task 2: 0 loses twice, 1 equals both: 1 of 4.
    first, second = np.array([[2.0, 0.0], [3.0, 1.0]]), np.array([[1.0, 1.0], [2.0, 1.0]])
    assert probability_of_improvement(first, second) == pytest.approx((3.5 / 4 + 1 / 4) / 2)
    assert probability_of_improvement(first, first) == 0.5


def test_the_probability_of_improvement_is_the_mann_whitney_statistic() -> None:
    generator = np.random.default_rng(1)
    first, second = generator.integers(0, 5, (6, 3)) / 4, generator.integers(0, 5, (4, 3)) / 4
    expected = stats.mannwhitneyu(first, second, axis=0).statistic.mean() / (6 * 4)
    assert probability_of_improvement(first, second) == pytest.approx(expected)


def test_a_performance_profile_is_the_share_of_tasks_above_a_threshold() -> None:
    scores = np.array([[0.0, 0.5, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    profile = performance_profile(scores, np.array([-0.1, 0.0, 0.5, 0.9, 1.0]))
    np.testing.assert_array_equal(profile, [[1, 0.75, 0.5, 0.5, 0], [1, 1, 0, 0, 0]])


def test_an_interval_is_that_of_whole_seeds() -> None:
    # The tasks of a seed are opposite, so that every mean over tasks is 0.5: as whole seeds they leave no doubt.
    opposite = np.array([[0.0, 1.0], [1.0, 0.0], [0.2, 0.8], [0.9, 0.1]])
    assert estimate(task_mean, opposite) == pytest.approx((0.5, 0.5, 0.5))
    # Equal tasks are worth no more than one of them.
    seeds = np.array([0.1, 0.5, 0.6, 0.9, 1.0])
    one, ten = (estimate(task_mean, np.repeat(seeds[:, None], tasks, axis=1)) for tasks in (1, 10))
    assert ten == pytest.approx(one)
    interval = stats.bootstrap((seeds,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(2))
    assert one.low == pytest.approx(interval.confidence_interval.low, abs=0.03)
    assert one.high == pytest.approx(interval.confidence_interval.high, abs=0.03)
    assert one.value == pytest.approx(0.62)


def test_two_seeds_span_the_interval_and_one_has_none() -> None:
    two = estimate(task_mean, np.array([[0.2], [0.8]]))
    assert two == pytest.approx((0.5, 0.2, 0.8))
    one = estimate(interquartile_mean, np.array([[0.2, 0.4]]))
    assert one.value == pytest.approx(0.3)
    assert np.isnan([one.low, one.high]).all()


def test_an_interval_of_two_methods_draws_each_of_them() -> None:
    first, second = np.array([[0.9], [0.8], [0.1]]), np.array([[0.5], [0.6]])
    own = estimate(probability_of_improvement, first, second)
    assert own.value == pytest.approx(4 / 6)
    assert (own.low, own.high) == (0, 1)  # three times the worst seed of the first, or never


def test_a_band_is_the_interval_of_every_point() -> None:
    curves = np.array([[0.0, 1.0, 0.3], [1.0, 1.0, 0.5]])
    mean, low, high = mean_band(curves)
    np.testing.assert_allclose(mean, [0.5, 1.0, 0.4])
    np.testing.assert_allclose(low, [0.0, 1.0, 0.3])
    np.testing.assert_allclose(high, [1.0, 1.0, 0.5])
    np.testing.assert_array_equal(mean_band(curves[:1]), [curves[0]] * 3)
