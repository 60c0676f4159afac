"""Small convex problems of the gradient methods, in float64 on the CPU, exact up to rounding in a few steps.

All of them work on cosines, not on inner products: weights are measured in units of 1/norm, so that tasks whose
gradients differ by many orders of magnitude are no harder than equal ones.

Shapes: M tasks, K problems.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST_EIGENVALUE = 1e-10
"""Eigenvalues of the cosines below this are raised to it.

Rounding of float32 gradients makes a Gramian of dependent gradients slightly indefinite. Of solutions that are equal
otherwise, the shortest is found.
"""


ROUNDING = torch.finfo(torch.float32).eps
"""Of the gradients that Gramians are computed from."""


class Cosines(NamedTuple):
    """A Gramian as norms and cosines."""

    norms: Tensor  # (M,)
    matrix: Tensor  # (M, M) ones on the diagonal


def cosines(gramian: Tensor) -> Cosines:
    """Norms and cosines of gradients, none of which is 0, from their inner products (M, M)."""
    norms = gramian.diagonal().sqrt()
    return Cosines(norms, gramian / norms / norms[:, None])


def definite_cosines(gramian: Tensor) -> Cosines:
    """As `cosines`; the matrix is positive definite, with ones on the diagonal up to SMALLEST_EIGENVALUE."""
    norms, matrix = cosines(gramian)
    eigenvalues, eigenvectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return Cosines(norms, (eigenvectors * eigenvalues.clamp(min=SMALLEST_EIGENVALUE)) @ eigenvectors.T)


def pseudo_inverse(matrix: Tensor) -> Tensor:
    """Of a symmetric matrix (M, M), without what may be rounding of float32 gradients."""
    return torch.linalg.pinv(matrix, rtol=len(matrix) * ROUNDING, hermitian=True)


def nonnegative_minimum(matrix: Tensor, linear: Tensor) -> Tensor:
    """x >= 0 (K, M) that minimises x'Ax / 2 + b'x, for every row b of `linear` (K, M).

    `matrix` A (M, M) is positive definite. Projected Newton (Bertsekas, 1982, SIAM J. Control Optim. 20): variables
    that are 0 and would fall stay 0, the others take a Newton step, the best of ever shorter ones, and what falls
    below 0 is set to 0.
    """
    scale = linear.abs().amax(1, keepdim=True)
    linear = linear / torch.where(scale > 0, scale, 1.0)
    solution = torch.zeros_like(linear)
    unsolved = torch.arange(len(linear))
    steps = 0.2 ** torch.arange(18, dtype=linear.dtype)[:, None, None]
    for _ in range(100):
        x, b = solution[unsolved], linear[unsolved]
        newton = _unconstrained_minimum(matrix, b, (x > 0) | (x @ matrix + b < 0))
        tried = torch.cat(((x + steps * (newton - x)).clamp(min=0), x[None]))  # (19, K, M)
        values = ((tried @ matrix / 2 + b) * tried).sum(-1)
        best = values.argmin(0)
        x = solution[unsolved] = tried[best, torch.arange(len(unsolved))]
        slope = x @ matrix + b
        wrong = torch.where(x > 0, slope.abs(), -slope) > 1e-9 * x.amax(1, keepdim=True).clamp(min=0.01)
        unsolved = unsolved[wrong.any(1) & (best < len(steps))]
        if not len(unsolved):
            break
    return scale * solution


def _unconstrained_minimum(matrix: Tensor, linear: Tensor, free: Tensor) -> Tensor:
    """The minimum (K, M) over the variables that are `free` (K, M); the others are 0."""
    systems = torch.where(free[:, :, None] & free[:, None, :], matrix, 0.0)
    systems.diagonal(dim1=1, dim2=2).add_(~free)
    right = torch.where(free, -linear, 0.0)[:, :, None]
    return torch.cholesky_solve(right, torch.linalg.cholesky(systems))[:, :, 0]


def shortest_in_hull(gramian: Tensor) -> Tensor:
    """Weights (M,) >= 0 of sum 1 for which the sum of the gradients is shortest, from inner products (M, M).

    With x = weights / (2 multiplier), the conditions of the minimum are those of `nonnegative_minimum` for b = -1.
    """
    norms, matrix = definite_cosines(gramian)
    weights = nonnegative_minimum(matrix, -norms.amin() / norms[None])[0] / norms
    return weights / weights.sum()


def farthest_improvement(gramian: Tensor, radius: float) -> Tensor:
    """v >= 0 (M,) for which d = mean of the g_i + sum_i v_i g_i has the largest min_i g_i'd within a distance.

    That distance from the mean gradient is `radius` times its norm, and all of it is used. The nearest d with
    min_i g_i'd >= t is a problem of `nonnegative_minimum`. Its distance is a convex function of t, and the root of a
    quadratic as long as the same v_i are 0: t is found by solving for the one and for the other in turn.
    """
    norms, matrix = definite_cosines(gramian)
    norms = norms / norms.amax()
    mean_slopes = matrix @ norms / len(norms)  # of the mean gradient along the unit gradients
    wanted = radius * (norms @ mean_slopes / len(norms)).sqrt()
    if wanted == 0:
        return torch.zeros_like(norms)
    # No level is higher than what one task alone would allow.
    low, high = (mean_slopes * norms).amin(), ((mean_slopes + wanted) * norms).amin()
    level = high
    x = torch.zeros_like(norms)
    for _ in range(30):
        x = nonnegative_minimum(matrix, (mean_slopes - level / norms)[None])[0]
        distance = (x @ matrix @ x).sqrt()
        if (distance - wanted).abs() <= 1e-10 * wanted:
            break
        low, high = (level, high) if distance < wanted else (low, level)
        level = _level_of_distance(matrix, norms, mean_slopes, x > 0, wanted)
        if not low < level < high:
            level = (low + high) / 2
    return x * (wanted / distance) / norms


def _level_of_distance(matrix: Tensor, norms: Tensor, mean_slopes: Tensor, free: Tensor, wanted: Tensor) -> Tensor:
    """The level at which the distance is `wanted` while x stays 0 where not `free`; NaN if there is none."""
    both = torch.stack((1 / norms[free], mean_slopes[free]), 1)
    # x = A^-1 (level / norm - slope), distance^2 = x'Ax = a level^2 - 2 b level + c.
    (a, b), (_, c) = both.T @ torch.linalg.solve(matrix[free][:, free], both)
    return (b + (b.square() - a * (c - wanted.square())).sqrt()) / a


def fair_weights(gramian: Tensor, exponent: float) -> Tensor:
    """Weights a > 0 (M,) with (G a)_i = a_i^-exponent for all i, `exponent` > 0.

    They minimise the strictly convex a'Ga / 2 - sum_i f(a_i), f' = a^-exponent: Newton's method on log a, with steps
    halved until the function falls.
    """
    norms, matrix = definite_cosines(gramian)
    norms = norms / norms.log().mean().exp()
    factors = norms ** (exponent - 1)  # in units of 1/norm: (C x)_i = factor_i x_i^-exponent

    def value(x: Tensor) -> Tensor:
        own = x.log() if exponent == 1 else x ** (1 - exponent) / (1 - exponent)
        return x @ matrix @ x / 2 - factors @ own

    x = factors ** (1 / (1 + exponent))  # the solution for orthogonal gradients
    for _ in range(100):
        pull = factors * x ** (1 - exponent)
        residual = x * (matrix @ x) - pull
        hessian = x * matrix * x[:, None] + torch.diag(exponent * pull)
        change = -torch.cholesky_solve(residual[:, None], torch.linalg.cholesky(hessian))[:, 0]
        if (change.abs() <= 1e-7).all():  # the next would be its square
            return x * (1 + change) / norms
        size = min(1.0, 0.9 / float((-change).clamp(min=0.1).amax()))
        before, slope = value(x), residual @ change
        while value(x * (1 + size * change)) > before + 0.1 * size * slope:
            size /= 2
            if size < 1e-4:  # rounding: no solution but at infinity, which `definite_cosines` keeps finite
                return x / norms
        x = x * (1 + size * change)
    return x / norms
