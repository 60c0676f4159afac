"""PopArt: numbers worked by hand, and predictions that a change of the statistics leaves alone.

Shapes: K networks, B batch, M tasks.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mtrl.networks import Ensemble
from mtrl.networks.hard_sharing.mlp import MLP
from mtrl.normalization.popart import PopArt, TaskAffine
from mtrl.seeding import torch_stream


def popart(num_tasks: int, rate: float = 3e-4) -> PopArt:
    return PopArt(num_tasks, PopArt.Config(rate=rate))


def test_the_first_batch_of_a_task_gives_its_statistics() -> None:
    normalizer = popart(3, rate=0.1)
    normalizer.update_statistics(torch.tensor([1.0, 3.0, 10.0, 16.0]), torch.tensor([0, 0, 2, 2]), [])
    # mu 0 and nu 1 without a batch; task 0 has mean 2 and mean square 5, task 2 has 13 and 178.
    assert normalizer.mean.tolist() == pytest.approx([2.0, 0.0, 13.0])
    assert normalizer.mean_square.tolist() == pytest.approx([5.0, 1.0, 178.0])
    assert normalizer.std.tolist() == pytest.approx([1.0, 1.0, 3.0])
    tasks = torch.tensor([0, 2])
    assert normalizer.normalize(torch.tensor([2.5, 7.0]), tasks).tolist() == pytest.approx([0.5, -2.0])
    assert normalizer.denormalize(torch.tensor([1.0, 2.0]), tasks).tolist() == pytest.approx([3.0, 19.0])
    assert normalizer.scale(tasks).tolist() == pytest.approx([1.0, 3.0])


def test_statistics_are_moving_averages_of_the_tasks_means() -> None:
    normalizer = popart(3, rate=0.1)
    for batch in ([1.0, 3.0, 10.0], [4.0, 8.0, 20.0]):
        normalizer.update_statistics(torch.tensor(batch), torch.tensor([0, 0, 2]), [])
    # Task 0: mean 2 and then 6, mean square 5 and then 40. Returns of task 2 never differ, so it has not started.
    assert normalizer.mean.tolist() == pytest.approx([0.9 * 2 + 0.1 * 6, 0.0, 0.9 * 1 + 2])
    assert normalizer.mean_square.tolist() == pytest.approx([0.9 * 5 + 4, 1.0, 0.9 * (0.9 + 10) + 40])


def test_a_task_without_rewards_yet_keeps_its_units_until_there_are_some() -> None:
    normalizer, tasks = popart(1, rate=0.1), torch.zeros(4, dtype=torch.int64)
    for constant in (0.0, 123456.7):
        normalizer.update_statistics(torch.full((4,), constant), tasks, [])
        assert not normalizer.started.any()
    normalizer.update_statistics(torch.tensor([0.0, 0.0, 0.0, 100.0]), tasks, [])
    assert (normalizer.mean.item(), normalizer.mean_square.item()) == pytest.approx((25.0, 2500.0))


def test_one_update_rescales_scale_and_shift_of_every_output() -> None:
    normalizer, outputs = popart(2, rate=0.5), [TaskAffine(2, 2), TaskAffine(1, 2)]
    with torch.no_grad():
        outputs[0].scale.copy_(torch.tensor([[3.0, 1.0], [2.0, 1.0]]))
        outputs[0].shift.copy_(torch.tensor([[0.5, 0.0], [0.0, 0.0]]))
    # mu becomes 4 and nu 17, so sigma 1; then mu 4 + (8 - 4) / 2 = 6 and nu 17 + (89 - 17) / 2 = 53.
    for returns in ([3.0, 5.0], [3.0, 13.0]):
        normalizer.update_statistics(torch.tensor(returns), torch.zeros(2, dtype=torch.int64), outputs)
    sigma = 17**0.5
    assert outputs[0].scale.tolist() == [pytest.approx([3 / sigma, 1.0]), pytest.approx([2 / sigma, 1.0])]
    assert outputs[0].shift.tolist() == [pytest.approx([(0.5 - 6) / sigma, 0.0]), pytest.approx([-6 / sigma, 0.0])]
    assert outputs[1].scale.tolist() == [pytest.approx([1 / sigma, 1.0])]


def test_the_standard_deviation_is_bounded_below_and_above() -> None:
    normalizer = popart(2, rate=1.0)
    normalizer.update_statistics(torch.tensor([7.0, -1e9, 1e9]), torch.tensor([0, 1, 1]), [])
    assert normalizer.std.tolist() == pytest.approx([1e-4, 1e6])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_return_that_is_not_finite_changes_nothing(bad: float) -> None:
    normalizer, output = popart(2), TaskAffine(1, 2)
    normalizer.update_statistics(torch.tensor([5.0, bad]), torch.tensor([0, 1]), [output])
    assert normalizer.mean.tolist() == [0.0, 0.0]
    assert normalizer.mean_square.tolist() == [1.0, 1.0]
    assert normalizer.started.tolist() == [False, False]
    assert output.scale.tolist() == [[1.0, 1.0]]


class Case:
    """A small ensemble whose heads are random, with its output, and inputs."""

    def __init__(self, seed: int, num_tasks: int):
        self.generator = torch_stream(seed, "popart")
        self.num_tasks = num_tasks
        self.networks = Ensemble([MLP(3, 1, num_tasks, MLP.Config(width=8, depth=1)) for _ in range(2)])
        self.output = TaskAffine(2, num_tasks)
        for parameter in (*self.networks.parameters(), *self.output.parameters()):
            parameter.data.copy_(torch.randn(parameter.shape, generator=self.generator))
        self.features = torch.randn(40, 3, generator=self.generator)
        self.task_ids = torch.randint(num_tasks, (40,), generator=self.generator)

    @torch.no_grad()
    def predictions(self, normalizer: PopArt) -> Tensor:
        """(2, B) in reward units."""
        values = self.output(self.networks(self.features, self.task_ids).values, self.task_ids)
        assert values.dtype == torch.float32
        return normalizer.denormalize(values.squeeze(-1), self.task_ids)

    @torch.no_grad()
    def sizes_of_terms(self, normalizer: PopArt) -> Tensor:
        """(2, B) std (abs(a f) + abs(c) + 1) + abs(mean): a prediction is rounded by its terms, which may cancel."""
        values = self.networks(self.features, self.task_ids).values.squeeze(-1)
        scaled = self.output.scale[:, self.task_ids] * values
        std, mean = normalizer.std[self.task_ids], normalizer.mean[self.task_ids]
        return std * (scaled.abs() + self.output.shift[:, self.task_ids].abs() + 1) + mean.abs()

    def targets(self, location: float, spread: float) -> tuple[Tensor, Tensor]:
        """Returns and the tasks they are of; not every task has one."""
        values = location + spread * torch.randn(16, generator=self.generator)
        return values, torch.randint(self.num_tasks, (16,), generator=self.generator)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_tasks=st.integers(1, 5),
    rate=st.sampled_from([3e-4, 1e-2, 0.3]),
    batches=st.lists(
        st.tuples(st.floats(-1e6, 1e6), st.sampled_from([0.0, 1e-3, 1.0, 1e3, 1e6])), min_size=1, max_size=8
    ),
)
def test_an_update_leaves_unnormalized_predictions_alone(
    seed: int, num_tasks: int, rate: float, batches: list[tuple[float, float]]
) -> None:
    case, normalizer = Case(seed, num_tasks), popart(num_tasks, rate)
    for location, spread in batches:
        before = case.predictions(normalizer)
        sizes = case.sizes_of_terms(normalizer)
        normalizer.update_statistics(*case.targets(location, spread), [case.output])
        sizes = torch.maximum(sizes, case.sizes_of_terms(normalizer))
        after = case.predictions(normalizer)
        assert ((after - before).abs() <= 1e-5 * sizes).all()


def test_normalized_and_plain_squared_errors_differ_by_the_variance() -> None:
    # So the loss of a task does not depend on the units of its rewards.
    case, normalizer = Case(1, 2), popart(2, rate=0.2)
    for _ in range(20):
        normalizer.update_statistics(*case.targets(50.0, 1000.0), [case.output])
    returns = 1000 * torch.randn(40, generator=case.generator)
    normalized = case.output(case.networks(case.features, case.task_ids).values, case.task_ids).squeeze(-1)
    errors = normalized - normalizer.normalize(returns, case.task_ids)
    plain = case.predictions(normalizer) - returns
    torch.testing.assert_close(errors * normalizer.scale(case.task_ids), plain, rtol=1e-4, atol=1e-2)
