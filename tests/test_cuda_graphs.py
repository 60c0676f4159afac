"""What is around the recordings of a GPU, which there is none of here: a stand-in runs the function again instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl import cuda_graphs
from mtrl.cuda_graphs import MAX_RECORDINGS, WARM_UP_CALLS, Replayed
from mtrl.types import Metrics


@dataclass(frozen=True)
class Given:
    values: Tensor
    extras: dict[str, Tensor]
    counts: tuple[int, ...] = (1,)


class Rerun:
    """In place of a recording: reads the memory that a recording reads."""

    made = 0

    def __init__(self, function: Callable[..., Metrics], inputs: Sequence[Any], generators: Sequence[torch.Generator]):
        Rerun.made += 1
        self.function, self.inputs = function, inputs

    def replay(self) -> Metrics:
        return self.function(*self.inputs)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "_Recording", Rerun)
    Rerun.made = 0


def given(value: float, rows: int = 2, counts: tuple[int, ...] = (1,)) -> Given:
    return Given(torch.full((rows,), value), {"more": torch.full((rows, 1), 10 * value)}, counts)


def test_every_call_sees_its_own_inputs_and_one_form_is_recorded_once() -> None:
    replayed = Replayed(lambda one, two: {"sum": one.values + two.extras["more"][:, 0]}, [])
    for call in range(WARM_UP_CALLS + 5):
        assert replayed(given(call), given(2 * call)).pop("sum").tolist() == [21 * call, 21 * call]
        assert Rerun.made == (call >= WARM_UP_CALLS)


def test_an_input_that_is_the_same_object_is_not_copied_again() -> None:
    replayed = Replayed(lambda one: {"values": one.values.clone()}, [])
    whole = given(1.0)
    for _ in range(WARM_UP_CALLS + 1):
        replayed(whole)
    whole.values.fill_(5.0)
    assert replayed(whole)["values"].tolist() == [1, 1]
    assert replayed(given(7.0))["values"].tolist() == [7, 7]
    assert replayed(whole)["values"].tolist() == [5, 5]


def test_other_numbers_of_rows_are_another_form_and_not_all_are_recorded() -> None:
    replayed = Replayed(lambda one: {"counts": torch.tensor(one.counts)}, [])
    for counts in range(MAX_RECORDINGS + 3):
        for _ in range(WARM_UP_CALLS + 2):
            assert replayed(given(0.0, counts=(counts,)))["counts"].tolist() == [counts]
    assert Rerun.made == MAX_RECORDINGS


def test_forms_that_never_come_back_take_no_memory() -> None:
    replayed = Replayed(lambda one: {}, [])
    for counts in range(1000):
        replayed(given(0.0, counts=(counts,)))
    assert len(replayed._calls) <= cuda_graphs._MAX_COUNTED
    assert not replayed._inputs
