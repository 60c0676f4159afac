"""Architectures whose tasks share a trunk: hard parameter sharing."""

from mtrl.networks.hard_sharing import film, mlp, multi_head, residual, separate, task_routing

__all__ = ["film", "mlp", "multi_head", "residual", "separate", "task_routing"]
