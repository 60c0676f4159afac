"""Task scheduling: which task a slot plays next, and which share of a batch a task gets."""

from mtrl.scheduling import a5c, ea4c, explicit, fixed, proportional, ua4c, uniform
from mtrl.scheduling.active import ActiveScheduler
from mtrl.scheduling.scheduler import TaskScheduler, schedulers

__all__ = [
    "ActiveScheduler",
    "TaskScheduler",
    "a5c",
    "ea4c",
    "explicit",
    "fixed",
    "proportional",
    "schedulers",
    "ua4c",
    "uniform",
]
