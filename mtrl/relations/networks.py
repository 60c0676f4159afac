"""Which networks to train under a budget, and on which tasks (Standley et al., 2020, arXiv:1905.07553).

A network is trained on a set of tasks S and serves some of them; the others only help. What a task i gains in it is
estimated from pairs, as in the paper: the mean of the affinities j -> i over the others j in S, and 0 alone. Every task
is served by one network. The best choice is found by branch and bound. Shapes: M tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtrl.errors import BadInput

MAX_TASKS = 12
"""There are 2^M - 1 networks to choose from."""


@dataclass(frozen=True)
class Network:
    """The tasks that a network is trained on, and those of them that it serves; ascending."""

    trained_on: tuple[int, ...]
    serves: tuple[int, ...]


def choose_networks(affinity: np.ndarray, budget: int) -> tuple[list[Network], float]:
    """At most `budget` networks of equal size that serve all tasks, and the sum of what the tasks gain.

    affinity (M, M): row j, column i is what task i gains from task j, 0 being nothing. Raises BadInput for more than 12
    tasks, a budget below 1 or an unknown affinity.
    """
    size = len(affinity)
    if size > MAX_TASKS:
        raise BadInput(f"budget: {size} tasks are too many; networks are chosen for {MAX_TASKS} at most, see groups")
    if budget < 1:
        raise BadInput(f"budget: {budget} is not allowed; must be at least 1")
    if not np.isfinite(affinity[~np.eye(size, dtype=bool)]).all():
        raise BadInput("budget: the affinity of some pairs of tasks is unknown")
    bits = (np.arange(1 << size)[:, None] >> np.arange(size)) & 1  # (2^M, M), the tasks of every set
    value, trained = _best_networks(_gains(affinity, bits), bits)
    limit = value[1 << np.arange(size)]  # (M,) what each task gains in the network that is best for it
    served, total = _best_partition(value, limit, bits, budget)
    networks = [Network(_tasks(trained[own], size), _tasks(own, size)) for own in served]
    return sorted(networks, key=lambda network: network.serves), total


def _gains(affinity: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """What each task gains in the network of each set (2^M, M); of no meaning for tasks outside it."""
    helps = np.where(np.eye(len(affinity), dtype=bool), 0.0, affinity)
    others = bits.sum(1, keepdims=True) - 1
    return (bits @ helps) / np.maximum(others, 1)


def _best_networks(gains: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every set of tasks to serve, the most they gain in one network, and the set it is trained on; (2^M,) each."""
    value, trained = np.full(len(bits), -np.inf), np.zeros(len(bits), np.int64)
    every = np.arange(len(bits))
    for network in range(1, len(bits)):
        served = every[(every & ~network) == 0]
        total = bits[served] @ gains[network]
        better = total > value[served]
        value[served[better]], trained[served[better]] = total[better], network
    return value, trained


def _best_partition(value: np.ndarray, limit: np.ndarray, bits: np.ndarray, budget: int) -> tuple[list[int], float]:
    """Sets to serve, at most `budget` disjoint ones that hold all tasks, of the largest sum of values."""
    everything = len(value) - 1
    bound = bits @ limit  # (2^M,) no choice of networks gives the tasks of a set more
    best_sets, best = [everything], float(value[everything])
    reached: dict[tuple[int, int], float] = {}  # the largest total with which so many sets left these tasks

    def branch(left: int, chosen: list[int], total: float) -> None:
        """left: the tasks that no chosen set holds yet."""
        nonlocal best_sets, best
        if not left:
            if total > best:
                best_sets, best = [*chosen], total
            return
        if total <= reached.get((left, len(chosen)), -np.inf):
            return
        reached[left, len(chosen)] = total
        lowest = left & -left  # the next set holds this one, so that no partition is met twice
        sets = _subsets(left ^ lowest) | lowest if len(chosen) < budget - 1 else np.array([left])
        promises = total + value[sets] + bound[left ^ sets]
        for index in np.argsort(-promises, kind="stable"):
            if promises[index] <= best + 1e-12:
                return
            own = int(sets[index])
            branch(left ^ own, [*chosen, own], total + float(value[own]))

    branch(everything, [], 0.0)
    return best_sets, best


def _subsets(of: int) -> np.ndarray:
    """All subsets of a set, the empty one too, as bits."""
    found = np.zeros(1, np.int64)
    while of:
        lowest = of & -of
        found = np.concatenate([found, found | lowest])
        of ^= lowest
    return found


def _tasks(own: int, size: int) -> tuple[int, ...]:
    return tuple(task for task in range(size) if own >> task & 1)
