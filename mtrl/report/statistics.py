"""Statistics of scores over seeds (Agarwal et al., 2021, arXiv:2108.13264), on scipy.stats.

Seeds are aggregated before tasks. An interquartile mean over all pairs of task and seed would drop the hardest and the
easiest tasks and soon be 1.00 where the mean is far below. What is drawn again in a bootstrap is a whole seed with all
its tasks, since one agent has learned them together. Methods are the strata: each keeps its number of seeds.

Shapes: S, R seeds of two methods, M tasks, K points of a curve.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
_BATCH = 200
"""Resamples that are computed together, for the memory."""


class Estimate(NamedTuple):
    """A statistic and its percentile interval, NaN where a method has one seed."""

    value: float
    low: float
    high: float


def task_mean(scores: np.ndarray) -> np.ndarray:
    """Mean over seeds, then tasks, of scores (..., S, M) -> (...)."""
    return scores.mean((-2, -1))


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean over the seeds of every task, then the mean over tasks, of scores (..., S, M) -> (...).

    As in `scipy.stats.trim_mean`, a quarter of the seeds, rounded down, is dropped at each end: with fewer than four
    seeds it is the mean.
    """
    return stats.trim_mean(scores, 0.25, axis=-2).mean(-1)


def probability_of_improvement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How often a seed of the first method beats one of the second on a task: (..., S, M), (..., R, M) -> (...).

    Equal scores count one half. On every task it is the Mann-Whitney statistic divided by S R.
    """
    own, other = first[..., :, None, :], second[..., None, :, :]
    return ((own > other) + 0.5 * (own == other)).mean((-3, -2, -1))


def estimate(statistic: Callable[..., np.ndarray], *scores: np.ndarray) -> Estimate:
    """A statistic of the scores (S, M) of one or more methods, with its interval.

    `statistic` also takes a leading dimension of resamples.
    """
    value = float(statistic(*scores))
    if min(len(own) for own in scores) < 2:
        return Estimate(value, np.nan, np.nan)
    # Positions of seeds are drawn, so that the tasks of a seed stay together.
    interval = stats.bootstrap(
        [np.arange(len(own)) for own in scores],
        lambda *drawn, axis: statistic(*(own[rows] for own, rows in zip(scores, drawn, strict=True))),
        n_resamples=NUM_RESAMPLES,
        batch=_BATCH,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def mean_band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds of curves (S, K), and its interval: three times (K,). With one seed the band is the curve."""
    mean = curves.mean(0)
    if len(curves) < 2:
        return mean, mean, mean
    interval = stats.bootstrap(
        (curves,),
        np.mean,
        axis=0,
        n_resamples=NUM_RESAMPLES,
        batch=_BATCH,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return mean, interval.low, interval.high


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """For every seed, the share of tasks with a score above each threshold: (S, M), (K,) -> (S, K)."""
    return (scores[:, :, None] > thresholds).mean(1)
