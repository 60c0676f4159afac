"""Architectures whose tasks share a trunk: hard parameter sharing."""

from mtrl.networks.hard_sharing import branched, film, mlp, multi_head, residual, separate, task_routing

__all__ = ["branched", "film", "mlp", "multi_head", "residual", "separate", "task_routing"]
