"""What does not fit the memory is refused by name, and looking changes nothing."""

from __future__ import annotations

import resource
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from mtrl.errors import BadInput
from mtrl.optim.cpu import available_memory
from mtrl.optim.memory import RoomForNetworks, refusals_named, require_memory
from tests.training.tiny_runs import in_child

PEBIBYTE = 2**50


def test_more_memory_than_there_is_is_refused_with_both_numbers() -> None:
    available = available_memory()
    assert available is not None
    require_memory(available // 2, "half of it")
    with pytest.raises(BadInput, match=r"^a map needs 1,125,899,906,842,624 bytes of memory, [\d,]+ are there"):
        require_memory(PEBIBYTE, "a map")


def test_a_limit_of_address_space_counts() -> None:
    def limited() -> int:
        resource.setrlimit(resource.RLIMIT_AS, (2**36, resource.RLIM_INFINITY))
        large = available_memory() or 0
        resource.setrlimit(resource.RLIMIT_AS, (2**30, resource.RLIM_INFINITY))
        return 0 if (available_memory() or 0) < min(large, 2**30) else 1

    assert in_child(limited) == 0


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: np.zeros(2**55),
        lambda: torch.zeros(2**50),
        lambda: bytearray(2**60),
    ],
)
def test_what_the_system_refuses_is_named(allocate: Callable[[], object]) -> None:
    with (
        pytest.raises(BadInput, match=r"^the maps do not fit the memory: .*; [\d,]+ bytes are there$"),
        refusals_named("the maps"),
    ):
        allocate()


@pytest.mark.parametrize("size", [2**62, 10**30])
def test_a_size_beyond_counting_is_named_where_networks_are_made(size: int) -> None:
    with (
        pytest.raises(BadInput, match=r"^the networks do not fit the memory"),
        refusals_named("the networks", overflow=True),
    ):
        nn.Linear(size, size)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), OverflowError("math range"), TypeError("no")])
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), refusals_named("the maps"):
        raise error


def test_a_network_that_the_system_would_promise_memory_for_is_refused_before_it_is_written_to() -> None:
    available = available_memory() or 0
    width = int((available / 4) ** 0.5)  # all of it, which the system hands out
    with (
        pytest.raises(BadInput, match=rf"a network with a tensor of shape \({width}, {width}\) needs"),
        RoomForNetworks(),
    ):
        nn.Linear(width, width)


def test_networks_that_fit_are_made_as_without_a_look() -> None:
    made = []
    for context in (RoomForNetworks(), torch.enable_grad()):
        with torch.random.fork_rng(devices=[]), context:
            torch.manual_seed(1)
            made.append(nn.Sequential(nn.Linear(5000, 4000), nn.LayerNorm(4000), nn.Embedding(3, 4)))
    for one, other in zip(made[0].parameters(), made[1].parameters(), strict=True):
        assert torch.equal(one, other)
