"""Modular networks: each task routes through shared modules."""

from mtrl.networks.modular import adashare, pathnet, routing, soft_modules, soft_ordering

__all__ = ["adashare", "pathnet", "routing", "soft_modules", "soft_ordering"]
