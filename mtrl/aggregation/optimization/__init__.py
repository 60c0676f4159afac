"""Gradient methods whose weights solve an optimization problem or an equation on the Gramian."""

from mtrl.aggregation.optimization import aligned_mtl, cagrad, imtl_g, mgda, nash_mtl, pareto_mtl

__all__ = ["aligned_mtl", "cagrad", "imtl_g", "mgda", "nash_mtl", "pareto_mtl"]
