"""Active schedulers: what a task gets follows from its score."""

from mtrl.scheduling.active import a5c, distance, dtp, ea4c, explicit, implicit, smt, t3s, ua4c

__all__ = ["a5c", "distance", "dtp", "ea4c", "explicit", "implicit", "smt", "t3s", "ua4c"]
