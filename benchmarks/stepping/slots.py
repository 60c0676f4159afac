"""Slots that the stepping benchmark plays beside our environments: official classes, and physics alone."""

from __future__ import annotations

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from envs.metaworld.factory import MetaWorldFactory
from envs.metaworld.slot_env import EnvironmentStock, MetaWorldSlot
from envs.workers.slots import SlotStep


class UntouchedFactory(MetaWorldFactory):
    """Slots that play the official classes as they are."""

    def __call__(self) -> MetaWorldSlot:
        if self._stock is None:
            self._stock = _UntouchedStock(self.task_names, self.reward_function)
        return super().__call__()


class PhysicsFactory(MetaWorldFactory):
    """Slots that do nothing but the physics of a step."""

    def __call__(self) -> MetaWorldSlot:
        if self._stock is None:
            self._stock = EnvironmentStock(self.task_names, self.reward_function)
        return _PhysicsSlot(self._stock, self.task_names, self.goals, self.end_at_success, self.hides_goals)


class _UntouchedStock(EnvironmentStock):
    def _make(self, task: int) -> SawyerXYZEnv:
        return ALL_V3_ENVIRONMENTS[self._task_names[task]](reward_function_version=self._reward_function)


class _PhysicsSlot(MetaWorldSlot):
    """The floor of an env step: set the action, five substeps, one forward pass; nothing is observed or rewarded."""

    def begin(self, task: int, variation: int) -> np.ndarray:
        self._first = super().begin(task, variation)
        self._steps = 0
        return self._first

    def step(self, action: np.ndarray) -> SlotStep:
        env = self._env
        assert env is not None
        env.set_xyz_action(action[:3])
        env.data.ctrl[:] = action[3], -action[3]
        mujoco.mj_step(env.model, env.data, nstep=env.frame_skip)
        mujoco.mj_forward(env.model, env.data)
        self._steps += 1
        return SlotStep(self._first, 0.0, False, self._steps == env.max_path_length, False)
