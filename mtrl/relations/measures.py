"""Measures of how tasks are related, as functions of arrays. Higher is closer.

Shapes: M tasks, P parameters, N probes (the same inputs for every task), d representation, F features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mtrl.aggregation import cosines_of, gramian_of


def gradient_cosines(gradients: Tensor) -> Tensor:
    """Cosines G_ij / (n_i n_j) (M, M) of task gradients (M, P); NaN for a task whose gradient is 0."""
    return cosines_of(gramian_of([gradients]))


def representation_similarity(representations: Tensor) -> Tensor:
    """Representation similarity analysis (Dwivedi and Roig, 2019, arXiv:1904.11740): (M, N, d) -> (M, M).

    A task's matrix of dissimilarities has 1 - Pearson(h_x, h_y) for probes x and y. Two tasks are as close as the
    Spearman correlation of the lower triangles of theirs. A probe whose representation is constant, so that it has no
    correlation, counts as dissimilarity 1. NaN for a task all of whose dissimilarities are equal.
    """
    centered = representations.double() - representations.double().mean(-1, keepdim=True)
    norms = centered.norm(dim=-1, keepdim=True)
    directions = centered / torch.where(norms > 0, norms, 1)
    dissimilarity = 1 - directions @ directions.transpose(1, 2)  # (M, N, N)
    lower = dissimilarity[:, *torch.tril_indices(dissimilarity.shape[1], dissimilarity.shape[1], -1)]
    return torch.corrcoef(torch.stack([_ranks(row) for row in lower])).reshape(len(lower), -1)


def _ranks(values: Tensor) -> Tensor:
    """Ranks (n,) float64; equal values share the mean of theirs."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    return (last - 0.5 * (counts - 1).double())[inverse]


def attribution_similarity(attributions: Tensor) -> Tensor:
    """Cosines (M, M) of attributions (M, N, F), which are never negative (Song et al., 2019, arXiv:1909.11902).

    The attribution of an input is abs(x dy/dx). All probes of a task are one vector here; the paper takes a cosine for
    each and their mean, which does not see for which inputs a task is sensitive. NaN for a task without attributions.
    """
    return gradient_cosines(attributions.flatten(1))


def lookahead_affinity(
    losses: Callable[[Tensor], Tensor], parameters: Tensor, gradients: Tensor, rate: float
) -> Tensor:
    """Inter-task affinity (Fifty et al., 2021, arXiv:2109.04617): row i, column j is 1 - L_j(t - rate g_i) / L_j(t).

    How much of its loss task j loses by a gradient step on task i. losses: from parameters t (P,) to positive losses
    (M,). gradients (M, P). NaN where a loss is 0.
    """
    before = losses(parameters)
    after = torch.stack([losses(parameters - rate * gradient) for gradient in gradients])
    return torch.where(before > 0, 1 - after / before, torch.nan)


def fisher_similarity(fisher: Tensor) -> Tensor:
    """Similarity of Fisher embeddings (M, P), diagonals that are never negative (Task2Vec: Achille et al., 2019,
    arXiv:1902.03545, equation 3): the cosine of F_i / (F_i + F_j) and F_j / (F_i + F_j), (M, M).

    A parameter that matters to neither of the two does not count. NaN for a task without any.
    """
    rows = []
    for own in fisher.double():
        total = own + fisher
        scale = torch.where(total > 0, total, 1)
        mine, theirs = own / scale, fisher / scale  # each (M, P)
        rows.append((mine * theirs).sum(-1) / (mine.norm(dim=-1) * theirs.norm(dim=-1)))
    return torch.stack(rows)
