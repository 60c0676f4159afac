"""Pictures of a Meta-World episode, rendered without a display.

Imported only where videos are wanted: rendering costs about 80 ms a frame on a CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from envs.metaworld.factory import MetaWorldFactory
from envs.metaworld.slot_env import EnvironmentStock, MetaWorldSlot
from mtrl.env.suite import RenderedEpisode
from mtrl.errors import BadInput

FRAME_STRIDE = 10  # env steps between frames
SIZE = 240  # pixels, square
BACKENDS = ("egl", "osmesa")


def render_episode(
    factory: MetaWorldFactory, task: int, variation: int, act: Callable[[np.ndarray], np.ndarray]
) -> RenderedEpisode:
    """One episode, in frames (SIZE, SIZE, 3) uint8. Raises BadInput without a renderer."""
    stock = _RenderingStock(factory.task_names, factory.reward_function)
    slot = MetaWorldSlot(stock, factory.task_names, factory.goals, end_at_success=True, hides_goals=factory.hides_goals)
    observation = slot.begin(task, variation).astype(np.float32)
    env = stock.made
    try:
        frames = [_first_frame(env)]
        ended = success = False
        step, return_ = 0, 0.0
        while not ended:
            result = slot.step(act(observation))
            observation = result.observation.astype(np.float32)
            ended, success = result.terminated or result.truncated, success or result.success
            step, return_ = step + 1, return_ + float(result.reward)
            if ended or step % FRAME_STRIDE == 0:
                frames.append(env.render())
    finally:
        env.close()
    # The official camera `corner2` hangs upside down.
    return RenderedEpisode([np.ascontiguousarray(frame[::-1, ::-1]) for frame in frames], return_, success)


class _RenderingStock(EnvironmentStock):
    """Makes environments that can be rendered, and keeps the last one at hand."""

    made: SawyerXYZEnv

    def take(self, task: int) -> SawyerXYZEnv:
        env = ALL_V3_ENVIRONMENTS[self._task_names[task]](
            reward_function_version=self._reward_function,
            render_mode="rgb_array",
            camera_name="corner2",
            width=SIZE,
            height=SIZE,
        )
        # Shadows and antialiasing are seven eighths of the time of a frame in software.
        env.model.vis.quality.shadowsize = 0
        env.model.vis.quality.offsamples = 0
        self.made = env
        return env


def _first_frame(env: SawyerXYZEnv) -> np.ndarray:
    """Renders with the backend that the user chose, or the first that works."""
    chosen = os.environ.get("MUJOCO_GL")
    problems = []
    for backend in (chosen,) if chosen else BACKENDS:
        os.environ["MUJOCO_GL"] = backend
        try:
            return env.render()
        except Exception as error:  # each backend fails in its own way: missing library, no device, ...
            problems.append(f"{backend}: {error or type(error).__name__}")
    raise BadInput(
        f"no renderer works ({'; '.join(problems)}); on Debian: apt-get install libegl1 libopengl0 libosmesa6"
    )
