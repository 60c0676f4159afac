"""Our agents in Meta-World's own evaluation, to check one against the other.

`metaworld.evaluation.evaluation(OfficialAgent(agent), envs, num_episodes=50)` gives the success counts of our
protocol if `envs` is an official vector environment with one environment per task, in the suite's task order, and the
pseudorandom task selection switched on (`envs.call("toggle_sample_tasks_on_reset", True)`): then each of the 50 goals
is played once. With several environments per task the official function counts short episodes too often.
"""

from __future__ import annotations

import numpy as np

from mtrl.agent import Agent


class OfficialAgent:
    """An agent in the form that `metaworld.evaluation` calls. Shapes: M environments, one per task in order."""

    def __init__(self, agent: Agent):
        self._agent = agent

    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        """Deterministic actions (M, 4) for official observations (M, 39) float64."""
        rows = observations.astype(np.float32)
        return self._agent.act(rows, np.arange(len(rows)), explore=False).action

    def reset(self, env_mask: np.ndarray) -> None:
        """Nothing to forget between episodes."""
