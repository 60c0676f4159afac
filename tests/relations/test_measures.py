"""The measures by numbers worked out by hand. Shapes: M tasks, N probes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from mtrl.relations.measures import (
    attribution_similarity,
    fisher_similarity,
    gradient_cosines,
    lookahead_affinity,
    representation_similarity,
)

GENERATOR = torch.Generator().manual_seed(1)
VALUES = torch.randn(4, 7, 5, generator=GENERATOR)
MATRIX_MEASURES = {
    "cosine": lambda values: gradient_cosines(values.flatten(1)),
    "rsa": representation_similarity,
    "attribution": lambda values: attribution_similarity(values.abs()),
    "fisher": lambda values: fisher_similarity(values.flatten(1).square()),
}


def test_cosine_by_hand() -> None:
    found = gradient_cosines(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 3.0], [0.0, 0.0]]))
    root = math.sqrt(0.5)
    expected = torch.tensor([[1, 0, -root], [0, 1, root], [-root, root, 1]], dtype=torch.float64)
    torch.testing.assert_close(found[:3, :3], expected)
    assert found[3].isnan().all()


def test_representations_that_differ_by_a_rotation_are_alike() -> None:
    first = VALUES[0].double()
    # A rotation that keeps the mean over units, which Pearson's correlation takes out.
    mean = torch.ones(5, 1, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([mean, torch.randn(5, 4, dtype=torch.float64, generator=GENERATOR)], 1)).Q
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=GENERATOR)).Q
    rotation = basis @ torch.block_diag(torch.ones(1, 1, dtype=torch.float64), turn) @ basis.T
    found = representation_similarity(torch.stack([first, first @ rotation.T, 3 * first + 2]))
    torch.testing.assert_close(found, torch.ones(3, 3, dtype=torch.float64))


def test_representation_similarity_is_spearmans_correlation_of_dissimilarities() -> None:
    found = representation_similarity(VALUES)
    triangles = [1 - np.corrcoef(own.numpy())[np.tril_indices(7, -1)] for own in VALUES]
    for row in range(4):
        for column in range(4):
            assert found[row, column].item() == pytest.approx(spearmanr(triangles[row], triangles[column]).statistic)


def test_equal_dissimilarities_share_a_rank() -> None:
    # Probes along two units: their dissimilarities are 0 or 2, with ties.
    one = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    other = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    triangles = [(1 - np.corrcoef(own.numpy()))[np.tril_indices(4, -1)].round(6) for own in (one, other)]
    found = representation_similarity(torch.stack([one, other]))
    assert found[0, 1].item() == pytest.approx(spearmanr(*triangles).statistic)


def test_attribution_by_hand() -> None:
    attributions = torch.tensor([[[3.0, 4.0]], [[4.0, 3.0]], [[0.0, 0.0]]])
    found = attribution_similarity(attributions)
    assert found[0, 1].item() == pytest.approx(24 / 25)
    assert found[2].isnan().all()


def test_lookahead_by_hand() -> None:
    # L = x^2 / 2 at x = 1, rate 0.1, gradient 1: 1 - 0.81.
    found = lookahead_affinity(
        lambda x: torch.stack([x.square().sum() / 2, torch.zeros(())]),
        torch.tensor([1.0]),
        torch.tensor([[1.0], [-1.0]]),
        0.1,
    )
    assert found[:, 0].tolist() == pytest.approx([0.19, -0.21])
    assert found[:, 1].isnan().all()


def test_a_step_on_one_of_two_opposed_tasks_hurts_the_other() -> None:
    targets = torch.tensor([1.0, -1.0])
    found = lookahead_affinity(lambda x: (x - targets).square(), torch.zeros(1), torch.tensor([[-2.0], [2.0]]), 0.1)
    assert found.tolist() == pytest.approx(np.array([[0.36, -0.44], [-0.44, 0.36]]))


def test_fisher_by_hand() -> None:
    # F_1 / (F_1 + F_2) = (3/4, 1/2), F_2 / (F_1 + F_2) = (1/4, 1/2); the third parameter matters to neither.
    found = fisher_similarity(torch.tensor([[3.0, 1.0, 0.0], [1.0, 1.0, 0.0]]))
    expected = (3 / 16 + 1 / 4) / math.sqrt((9 / 16 + 1 / 4) * (1 / 16 + 1 / 4))
    assert found[0, 1].item() == pytest.approx(expected)
    assert found.diagonal().tolist() == pytest.approx([1, 1])
    assert fisher_similarity(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))[0, 1].item() == 0.0


@pytest.mark.parametrize("name", sorted(MATRIX_MEASURES))
def test_permuting_the_tasks_permutes_the_matrix(name: str) -> None:
    measure = MATRIX_MEASURES[name]
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(measure(VALUES[order]), measure(VALUES)[order][:, order])
    torch.testing.assert_close(measure(VALUES), measure(VALUES).T)
    torch.testing.assert_close(measure(VALUES).diagonal(), torch.ones(4, dtype=torch.float64))


def test_permuting_the_tasks_permutes_lookahead_affinities() -> None:
    gradients, order = torch.randn(3, 4, generator=GENERATOR), [2, 0, 1]
    targets = torch.randn(3, 4, generator=GENERATOR)
    first = lookahead_affinity(lambda x: (x - targets).square().sum(1), torch.zeros(4), gradients, 0.1)
    again = lookahead_affinity(lambda x: (x - targets[order]).square().sum(1), torch.zeros(4), gradients[order], 0.1)
    torch.testing.assert_close(again, first[order][:, order])
