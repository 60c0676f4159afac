"""Task scheduling: how much each task is played and learnt from."""

from mtrl.scheduling import active, fixed, uniform
from mtrl.scheduling.active.active_scheduler import ActiveScheduler
from mtrl.scheduling.scheduler import TaskScheduler, schedulers, task_weights

__all__ = ["ActiveScheduler", "TaskScheduler", "active", "fixed", "schedulers", "task_weights", "uniform"]
