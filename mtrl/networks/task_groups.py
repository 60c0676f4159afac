"""Groups of tasks from their affinity, and the tree of a branched network. Shapes: M tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtrl.errors import BadInput


def groups(affinity: np.ndarray, number: int) -> list[list[int]]:
    """Partition of the tasks into `number` groups by agglomerative clustering with average linkage.

    affinity (M, M): higher is closer; both directions of a pair count one half, the diagonal not at all. Each group is
    ascending, and groups are in the order of their first tasks. Groups of fewer are unions of groups of more. Raises
    BadInput for a number outside 1 to M, and for an affinity with unknown entries.
    """
    size = len(affinity)
    if not 1 <= number <= size:
        raise BadInput(f"groups: {number} is not allowed; must be 1 to the number of tasks, {size}")
    mutual = symmetric(affinity)
    found = [[task] for task in range(size)]
    while len(found) > number:
        pairs = [(first, second) for first in range(len(found)) for second in range(first + 1, len(found))]
        first, second = max(pairs, key=lambda pair: mutual[np.ix_(found[pair[0]], found[pair[1]])].mean())
        found[first] = sorted(found[first] + found.pop(second))
    return sorted(found)


def symmetric(affinity: np.ndarray) -> np.ndarray:
    """The mean of both directions (M, M). Raises BadInput where a pair of tasks has no affinity."""
    mutual = (affinity + affinity.T) / 2
    if not np.isfinite(mutual[~np.eye(len(mutual), dtype=bool)]).all():
        raise BadInput("the affinity of some pairs of tasks is unknown, so that the tasks cannot be grouped")
    return mutual


def tree(affinity: np.ndarray, branches: Sequence[int]) -> list[list[int]]:
    """The node of every task at every layer of a branched network: lists of M indices, one per layer from the input.

    branches: the number of nodes per layer. Raises BadInput for one outside 1 to M.
    """
    layers = []
    for number in branches:
        found = groups(affinity, number)
        layers.append([next(node for node, own in enumerate(found) if task in own) for task in range(len(affinity))])
    return layers
