"""Named random streams depend on their name alone and never meet."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mtrl.env.episodes import RandomEpisodes
from mtrl.seeding import (
    MAX_SEED,
    load_stream_state,
    load_torch_stream_state,
    seeded_construction,
    stream,
    stream_state,
    torch_stream,
)
from mtrl.testing.attributes import leaves
from mtrl.testing.generators import global_generators_untouched
from tests.env.counting import counting_suite

SEEDS = (0, 1, 2**31, 2**63)
PURPOSES = ("episodes", "evaluation", "buffer", "explore", "update", "aggregator actor", "aggregator critic")


def test_the_first_hundred_draws_of_all_streams_are_pairwise_distinct() -> None:
    names = itertools.product(SEEDS, PURPOSES, ((), (0,), (1,), (0, 0), (0, 1)))
    draws = [tuple(stream(seed, purpose, *indices).integers(2**63, size=100)) for seed, purpose, indices in names]
    assert len(set(draws)) == len(draws)
    # Not even shifted against each other: no value occurs twice anywhere.
    values = np.array(draws).ravel()
    assert len(np.unique(values)) == len(values)


def test_the_first_hundred_draws_of_all_torch_streams_are_pairwise_distinct() -> None:
    draws = [
        tuple(torch.rand(100, generator=torch_stream(seed, purpose), dtype=torch.float64).tolist())
        for seed, purpose in itertools.product(SEEDS, PURPOSES)
    ]
    values = np.array(draws).ravel()
    assert len(np.unique(values)) == len(values)


def test_the_same_name_gives_the_same_stream() -> None:
    for seed in SEEDS:
        assert np.array_equal(stream(seed, "x", 3).random(9), stream(seed, "x", 3).random(9))
        assert torch.equal(
            torch.rand(9, generator=torch_stream(seed, "x")), torch.rand(9, generator=torch_stream(seed, "x"))
        )


def test_names_that_run_together_are_told_apart() -> None:
    names = [(1, "a", 12), (1, "a", 1, 2), (1, "a1", 2), (1, "a"), (1, "a", 0), (1, "a", 0, 0), (1 + 2**32, "a")]
    first = {float(stream(seed, purpose, *indices).random()) for seed, purpose, *indices in names}
    assert len(first) == len(names)


def test_adding_a_slot_leaves_the_other_slots_draws_unchanged() -> None:
    # Seen before the draws are mapped to tasks, which depends on how many slots there are.
    few, many = (np.stack([stream(1, "episodes", slot).random(50) for slot in range(size)]) for size in (4, 5))
    assert np.array_equal(few, many[:4])


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        stream(seed, "x")


def test_a_stream_goes_on_from_a_saved_position() -> None:
    original, restored = stream(1, "x"), stream(2, "y")
    original.integers(10, dtype=np.uint32)  # leaves half a word over
    original.random(3)
    load_stream_state(restored, stream_state(original))
    assert np.array_equal(
        original.integers(10, size=9, dtype=np.uint32), restored.integers(10, size=9, dtype=np.uint32)
    )


def test_initial_weights_come_from_a_name_and_leave_the_global_generator_alone() -> None:
    with global_generators_untouched("seeded construction"):
        made = []
        for purpose in ("a", "a", "b"):
            with seeded_construction(1, purpose):
                made.append(leaves(torch.nn.Linear(3, 3)))
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_training_and_evaluation_play_different_unlimited_variations() -> None:
    spec = counting_suite(num_variations=None).spec
    episodes, training = RandomEpisodes(spec, 3, 1), set()
    for _ in range(1000):
        training |= set(episodes.peek()[1].tolist())
        episodes.advance(np.arange(3))
    evaluation = {int(value) for task in range(3) for value in stream(1, "evaluation", task).integers(2**48, size=1000)}
    assert len(training) == len(evaluation) == 3000
    assert not training & evaluation


def test_a_generator_takes_up_where_one_of_another_device_stood() -> None:
    on_gpu, elsewhere = torch.arange(16, dtype=torch.uint8), torch.arange(1, 17, dtype=torch.uint8)
    with pytest.raises(ValueError, match="not the state"):
        load_torch_stream_state(torch.Generator(), torch.zeros(3))
    drawn = []
    for state in (on_gpu, on_gpu, elsewhere):
        generator = torch.Generator().manual_seed(len(drawn))
        load_torch_stream_state(generator, state)
        drawn.append(torch.rand(3, generator=generator).tolist())
    assert drawn[0] == drawn[1] != drawn[2]
