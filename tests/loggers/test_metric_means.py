"""Means of metrics over a log interval, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mtrl.loggers.metric_means import MetricMeans

NAN = math.nan


def means_of(*updates: dict[str, object]) -> MetricMeans:
    means = MetricMeans(torch.device("cpu"))
    for update in updates:
        means.add({name: torch.tensor(value) for name, value in update.items()})
    return means


def test_a_mean_is_over_all_updates_of_the_interval_and_not_the_last_one() -> None:
    means = means_of({"critic_loss": [1.0, 10.0], "alpha": 1.0}, {"critic_loss": [2.0, 20.0], "alpha": 4.0})
    assert means.means() == {"critic_loss": [1.5, 15.0], "alpha": 2.5}
    means.clear()
    assert means.means() == {}


def test_a_task_without_samples_counts_in_no_mean() -> None:
    means = means_of({"loss": [NAN, 1.0, NAN]}, {"loss": [4.0, 3.0, NAN]}).means()["loss"]
    assert means[:2] == [4.0, 2.0]
    assert math.isnan(means[2])


def test_a_metric_that_only_some_updates_have_is_the_mean_of_those() -> None:
    assert means_of({"a": 1.0}, {"a": 3.0, "cosine": [[1.0, 0.5]]}, {}, {"a": 5.0}).means() == {
        "a": 3.0,
        "cosine": [[1.0, 0.5]],
    }


def test_a_small_number_is_not_lost_among_many() -> None:
    # In float32 the sum would stand still at 2^24.
    means = means_of({"a": 2.0**24}, *(3 * [{"a": 1.0}]))
    assert means.means()["a"] == (2**24 + 3) / 4


def test_the_sums_of_a_saved_state_go_on_bit_for_bit() -> None:
    updates = [{"a": [0.1 * step, NAN], "b": 0.3 / (step + 1)} for step in range(7)]
    calm, first = means_of(*updates), means_of(*updates[:3])
    second = means_of({"c": 1.0})
    state = first.state()
    first.add({"a": torch.ones(2), "b": torch.tensor(1.0)})  # what goes on changes no state that was saved
    second.load_state(state)
    for update in updates[3:]:
        second.add({name: torch.tensor(value) for name, value in update.items()})
    assert str(second.means()) == str(calm.means())


def test_a_state_whose_totals_do_not_belong_to_its_names_is_refused() -> None:
    state = means_of({"a": [1.0, 2.0]}).state()
    state["layouts"][0][0][1] = [3]
    with pytest.raises(ValueError, match="shape"):
        means_of().load_state(state)
