"""Auxiliary tasks: losses beside the agent's, which train the features that all tasks share."""

from mtrl.auxiliary import contrastive, control, dynamics, reward_prediction, value_replay
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
    "contrastive",
    "control",
    "dynamics",
    "reward_prediction",
    "value_replay",
]
