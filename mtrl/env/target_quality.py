"""How near the tasks are to their targets: a_i / b_i of every task, and the three means of Sharma et al. (2017,
arXiv:1702.06053) over all of them.

a_i is the mean score of a task and b_i its target (`SuiteSpec.target_scores`). The fraction is plain, as in the paper:
a_i is not taken relative to a random policy's score. It is clipped to [0, 1], since scores may be negative.
Shapes: M tasks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

MIN_FRACTION = 0.01
"""Floor of a_i / b_i in the geometric and the harmonic mean, which one task at zero would make zero."""


def solved_fractions(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """a_i / b_i (M,) in [0, 1] of mean scores (M,), NaN where nothing was measured yet, which counts as 0."""
    return np.fmin(np.fmax(scores / targets, 0.0), 1.0)  # fmax takes 0 before NaN


def target_quality(scores: np.ndarray, targets: np.ndarray | None) -> Mapping[str, float]:
    """q_am, q_gm and q_hm: arithmetic, geometric and harmonic mean of a_i / b_i; nothing without targets.

    The latter two take `MIN_FRACTION` where a task is below it.
    """
    if targets is None:
        return {}
    fractions = solved_fractions(scores, targets)
    floored = np.maximum(fractions, MIN_FRACTION)
    return {
        "q_am": float(fractions.mean()),
        "q_gm": float(np.exp(np.log(floored).mean())),
        "q_hm": float(1 / (1 / floored).mean()),
    }
