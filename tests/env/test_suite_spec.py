"""What the parts hand to each other."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.types import Batch
from tests.env.counting import Player, counting_suite


@pytest.fixture
def batch() -> Batch:
    suite = counting_suite()
    buffer = RolloutBuffer(suite.spec, 4, 10, 1)
    Player(suite, buffer).play(10)
    drawn = dataclasses.replace(buffer.sample(6), extras={"value": torch.arange(6.0)})
    return dataclasses.replace(drawn, noise={"action": torch.ones(6, 2)})


def test_row_tensors_are_named_and_put_back_by_name(batch: Batch) -> None:
    tensors = batch.columns()
    assert {"reward", "task_ids", "extras.value", "noise.action"} <= set(tensors)
    assert all(len(value) == 6 for value in tensors.values())
    again = batch.with_columns(tensors)
    assert all(torch.equal(value, again.columns()[name]) for name, value in tensors.items())
    assert again.counts == batch.counts


def test_mapping_rows_reaches_every_row_tensor(batch: Batch) -> None:
    half = batch.map_columns(lambda value: value[:3])
    assert all(len(value) == 3 for value in half.columns().values())
    assert torch.equal(half.extras["value"], torch.arange(3.0))
    assert torch.equal(half.shares, batch.shares)


def test_a_field_of_rows_cannot_be_forgotten(batch: Batch) -> None:
    # A new per-row field has to be named among the row tensors, or per-task gradients would see all of it.
    rows = {field.name for field in dataclasses.fields(Batch)} - {"shares", "counts", "part", "extras", "noise"}
    assert rows == {name for name in batch.columns() if "." not in name}
