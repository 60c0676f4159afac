"""A rollout dealt into minibatches. Shapes: M tasks, B rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtrl.buffer.minibatches import minibatches
from mtrl.seeding import torch_stream
from mtrl.types import Batch


def shuffled(counts: list[int]) -> Batch:
    """Rows in no order; the reward is the row's number."""
    rows = sum(counts)
    order = torch.randperm(rows, generator=torch_stream(1, "order"))
    zeros = torch.zeros(rows)
    return Batch(
        task_ids=torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))[order],
        observation=torch.arange(float(rows)).unsqueeze(-1),
        action=zeros,
        reward=torch.arange(float(rows)),
        terminated=zeros.bool(),
        truncated=zeros.bool(),
        next_observation=zeros.unsqueeze(-1),
        shares=torch.tensor(counts) / rows,
        counts=tuple(counts),
        extras={"value": torch.arange(float(rows))},
    )


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any),
    number=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
def test_every_row_is_dealt_once_sorted_by_task_and_shared_out(counts: list[int], number: int, seed: int) -> None:
    batch = shuffled(counts)
    parts = list(minibatches(batch, number, torch_stream(seed, "deal")))
    assert len(parts) == min(number, max(counts))
    assert sorted(row for part in parts for row in part.reward.tolist()) == list(range(sum(counts)))
    for part in parts:
        expected = torch.arange(len(counts)).repeat_interleave(torch.tensor(part.counts))
        assert torch.equal(part.task_ids, expected)
        assert torch.equal(part.task_ids, batch.task_ids[part.reward.long()])
        assert torch.equal(part.reward, part.extras["value"])
        assert torch.equal(part.reward, part.observation.squeeze(-1))
        assert part.shares.tolist() == pytest.approx([count / sum(part.counts) for count in part.counts])
        for own, total in zip(part.counts, counts, strict=True):
            assert abs(own - total / len(parts)) < 1


def test_every_row_of_a_task_is_as_likely_in_every_place() -> None:
    batch, generator = shuffled([6, 2]), torch_stream(1, "deal")
    first = torch.zeros(8)
    for _ in range(2000):
        first[next(minibatches(batch, 2, generator)).reward.long()] += 1 / 2000
    torch.testing.assert_close(first, torch.full((8,), 0.5), atol=0.05, rtol=0)


def test_equal_counts_give_equal_shares() -> None:
    # What lets Jacobian aggregators take all tasks' gradients in one vectorised pass.
    for part in minibatches(shuffled([12, 12, 12]), 4, torch_stream(1, "deal")):
        assert part.counts == (3, 3, 3)
