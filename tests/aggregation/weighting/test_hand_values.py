"""Loss weightings against numbers worked by hand. Shapes: M tasks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl.aggregation import GradientAggregator, PresentTasks, TaskLosses, aggregators
from mtrl.aggregation.weighting.focal_speed import focal
from mtrl.seeding import torch_stream
from mtrl.testing.aggregator import LinearProblem


def make(name: str, num_tasks: int = 2, **settings: Any) -> Any:
    cls: type[GradientAggregator] = aggregators.get(name)
    return cls(num_tasks, cls.Config(**settings), torch_stream(1, "aggregator"))


def weights(aggregator: Any, *losses: float) -> list[float]:
    """The weights of all tasks at these losses."""
    values = torch.tensor(losses, dtype=torch.float64)
    return aggregator.weights(values, torch.arange(len(losses))).tolist()


def of_norms(aggregator: Any, norms: list[float], losses: list[float]) -> list[float]:
    """The weights of orthogonal gradients of these norms."""
    gramian = torch.tensor(norms, dtype=torch.float64).square().diag()
    tasks = PresentTasks(torch.arange(len(norms)), torch.tensor(losses, dtype=torch.float64))
    return aggregator.task_weights(gramian, tasks).tolist()


def test_uncertainty_ends_at_variances_equal_to_the_losses() -> None:
    aggregator = make("uncertainty", learning_rate=0.01)
    assert weights(aggregator, 1.0, 4.0) == [1.0, 1.0]
    for _ in range(1000):
        weights(aggregator, 1.0, 4.0)
    assert (2 * aggregator.memory["log_sigma"]).exp().tolist() == pytest.approx([1.0, 4.0], abs=1e-3)
    assert weights(aggregator, 1.0, 4.0) == pytest.approx([1.0, 0.25], abs=1e-3)


def test_dwa_weighs_by_the_ratio_of_two_windows() -> None:
    # (1, 2) after (2, 2): ratios (1/2, 1), 2 softmax(1/4, 1/2)
    aggregator = make("dwa", temperature=2.0, window=1)
    assert weights(aggregator, 2.0, 2.0) == [1.0, 1.0]
    assert weights(aggregator, 1.0, 2.0) == pytest.approx([0.8756, 1.1244], abs=1e-4)


def test_dwa_compares_means_over_windows() -> None:
    aggregator = make("dwa", temperature=2.0, window=2)
    for losses in ((1.0, 1.0), (3.0, 3.0), (0.5, 2.5)):
        assert weights(aggregator, *losses) == [1.0, 1.0]
    assert weights(aggregator, 1.5, 1.5) == pytest.approx([0.8756, 1.1244], abs=1e-4)


def test_lbtw_takes_the_root_of_what_is_left_of_a_loss() -> None:
    aggregator = make("lbtw", alpha=0.5, window=2)
    for losses in ((9.0, 9.0), (9.0, 9.0), (3.0, 5.0)):
        assert weights(aggregator, *losses) == [1.0, 1.0]
    assert weights(aggregator, 5.0, 3.0) == pytest.approx([math.sqrt(5 / 4), math.sqrt(3 / 4)])
    for _ in range(5):  # the initial loss stays
        assert weights(aggregator, 1.0, 4.0) == pytest.approx([0.5, 1.0])


def test_focal_speed_of_a_loss_that_falls_from_2_to_1() -> None:
    # 2 -> 0.25 * 1 + 0.75 * 2 = 1.75, p = 7/8, -(1/8)^2 ln(7/8)
    assert focal(torch.tensor([0.875], dtype=torch.float64), 2.0).item() == pytest.approx(0.0020864, abs=1e-7)
    aggregator = make("focal-speed", rate=0.25, gamma=2.0)
    assert weights(aggregator, 2.0, 2.0) == [1.0, 1.0]
    expected = [0.0020864, -(0.0625**2) * math.log(0.9375)]  # of 2 -> 1 and 2 -> 1.5
    assert weights(aggregator, 1.0, 1.5) == pytest.approx([2 * one / sum(expected) for one in expected], rel=1e-4)
    assert aggregator.memory["average"].tolist() == [1.75, 1.875]


def test_geometric_mean_weighs_losses_of_any_scale_alike() -> None:
    assert weights(make("geometric-mean"), 1.0, 4.0) == pytest.approx([2.0, 0.5])
    assert weights(make("geometric-mean"), 1e-6, 1e6) == pytest.approx([1e6, 1e-6])


def test_random_weights_have_mean_1_over_tasks_and_over_time() -> None:
    aggregator = make("rlw", 3)
    drawn = torch.tensor([weights(aggregator, 1.0, 1.0, 1.0) for _ in range(10_000)])
    torch.testing.assert_close(drawn.mean(1), torch.ones(10_000))
    assert drawn.mean(0).tolist() == pytest.approx([1.0, 1.0, 1.0], abs=0.03)


def test_famo_weighs_by_the_losses_and_corrects_by_the_progress() -> None:
    aggregator = make("famo", learning_rate=0.1, decay=0.0)
    assert weights(aggregator, 1.0, 4.0) == pytest.approx([1.6, 0.4])
    problem = LinearProblem((2, 2))
    after = TaskLosses(torch.zeros(2), gauge=torch.tensor([0.5, 4.0]))
    aggregator.after_step(lambda parameters, batch: after, problem.batch, problem.parameters)
    # (1/2, 1/2) * (log 2 - log(2)/2, 0 - log(2)/2): the first moment of Adam is a tenth of it
    assert (10 * aggregator.memory["logits_mean"]).tolist() == pytest.approx([0.1733, -0.1733], abs=1e-4)
    assert aggregator.memory["logits"].tolist() == pytest.approx([-0.1, 0.1], abs=1e-6)


def test_stch_weighs_by_losses_relative_to_the_last_window() -> None:
    aggregator = make("stch", smoothing=1.0, window=2)
    for losses in ((1.0, math.e), (3.0, 3 * math.e)):  # no nadir yet: derivatives of logarithms, 1 and 1/e
        assert weights(aggregator, *losses) == pytest.approx([1.4621, 0.5379], abs=1e-4)
    # nadirs 2 and 2e: softmax(log 1, log 1/e) for equal losses
    assert weights(aggregator, 2.0, 2.0) == pytest.approx([1.4621, 0.5379], abs=1e-4)


@pytest.mark.parametrize("smoothing", [0.3, 1.0])
def test_stch_weighs_by_the_derivatives_of_a_smooth_maximum(smoothing: float) -> None:
    aggregator = make("stch", smoothing=smoothing, window=1)
    weights(aggregator, 1.0, 50.0)
    losses = torch.tensor([2.0, 60.0], requires_grad=True)
    (smoothing * torch.logsumexp((losses / torch.tensor([1.0, 50.0])).log() / smoothing, 0)).backward()
    expected = 2 * losses.grad / losses.grad.sum()
    assert weights(aggregator, 2.0, 60.0) == pytest.approx(expected.tolist(), rel=1e-5)


def test_gradnorm_moves_weights_by_the_norm_towards_the_mean_norm() -> None:
    aggregator = make("gradnorm", learning_rate=0.1)
    assert of_norms(aggregator, [1.0, 3.0], [1.0, 1.0]) == [0.5, 0.5]
    assert (2 * torch.tensor(of_norms(aggregator, [1.0, 3.0], [1.0, 1.0]))).tolist() == pytest.approx(
        [1.2222, 0.7778], abs=1e-4
    )


def test_gradnorm_asks_for_more_of_a_task_that_is_behind() -> None:
    # Equal norms; the first loss is a half, the second one what it was: targets (1/3, 1)^alpha of the mean.
    aggregator = make("gradnorm", learning_rate=0.1, alpha=1.0)
    of_norms(aggregator, [1.0, 1.0], [1.0, 1.0])
    of_norms(aggregator, [1.0, 1.0], [0.5, 1.0])
    assert (2 * torch.tensor(of_norms(aggregator, [1.0, 1.0], [0.5, 1.0]))).tolist() == pytest.approx([0.9, 1.1])


def test_db_mtl_gives_every_logarithm_the_norm_of_the_largest() -> None:
    assert of_norms(make("db-mtl"), [1.0, 2.0], [1.0, 1.0]) == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize("name", ["uncertainty", "dwa", "lbtw", "focal-speed", "famo", "stch"])
def test_a_task_without_samples_keeps_what_is_known_of_it(name: str) -> None:
    aggregator = make(name, 3, **({"window": 1} if name in ("dwa", "lbtw", "stch") else {}))

    def update(counts: tuple[int, ...]) -> None:
        problem = LinearProblem(counts)
        aggregator.backward(problem.loss, problem.batch, problem.parameters)
        aggregator.after_step(problem.loss, problem.batch, problem.parameters)

    for _ in range(3):
        update((2, 3, 4))
    before: dict[str, Tensor] = {key: kept.clone() for key, kept in aggregator.memory.items()}
    update((2, 0, 4))
    for key, kept in aggregator.memory.items():
        assert kept[1] == before[key][1], key
    assert any(not torch.equal(kept, before[key]) for key, kept in aggregator.memory.items())
