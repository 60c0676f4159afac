"""Pictures of an episode, drawn by the environment itself; imported only where videos are wanted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from envs.gymnasium_suite.factory import GymnasiumFactory
from envs.gymnasium_suite.slot_env import GymnasiumStock
from mtrl.env.suite import RenderedEpisode
from mtrl.errors import BadInput, MtrlError
from mtrl.types import TaskSpec

MAX_PICTURES = 300
"""Of one episode; of a longer one every second, third, ... step is shown."""


def render_episode(
    factory: GymnasiumFactory, task: TaskSpec, variation: int, act: Callable[[np.ndarray], np.ndarray]
) -> RenderedEpisode:
    """One episode played by `act`.

    Raises BadInput where the environment cannot draw, for want of a package or of a display, say.
    """
    recipe = factory.recipes[task.index]
    try:
        env = recipe.make(render_mode="rgb_array")
        stock = GymnasiumStock(factory.recipes)
        stock.give_back(task.index, env)
        slot = factory.make_slot(stock)
        stride = -(-task.max_episode_steps // MAX_PICTURES)
        observation = slot.begin(task.index, variation)
        frames = [_frame(env.render())]
        steps, return_, ended, success = 0, 0.0, False, False
        while not ended:
            result = slot.step(act(observation.copy()))
            steps, return_ = steps + 1, return_ + float(result.reward)
            ended, success = result.terminated or result.truncated, success or result.success
            if ended or steps % stride == 0:
                frames.append(_frame(env.render()))
        env.close()
    except MtrlError:
        raise
    except Exception as error:  # of a drawing library that is missing, or has no display
        raise BadInput(f"task {task.name!r} cannot be drawn: {type(error).__name__}: {error}") from error
    return RenderedEpisode(frames, return_, success)


def _frame(picture: object) -> np.ndarray:
    if not isinstance(picture, np.ndarray):
        raise BadInput(f"render() gives {type(picture).__name__} in place of a picture")
    return np.ascontiguousarray(picture)
