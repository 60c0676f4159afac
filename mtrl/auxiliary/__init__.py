"""Auxiliary tasks: losses beside the agent's, which train the features that all tasks share."""

from mtrl.auxiliary import reward_prediction
from mtrl.auxiliary.auxiliary_task import (
    AuxiliaryContext,
    AuxiliaryInputs,
    AuxiliaryMaker,
    AuxiliaryTask,
    auxiliary_tasks,
)

__all__ = [
    "AuxiliaryContext",
    "AuxiliaryInputs",
    "AuxiliaryMaker",
    "AuxiliaryTask",
    "auxiliary_tasks",
    "reward_prediction",
]
