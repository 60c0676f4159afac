"""Action rules: the mode of a policy, samples from it, or what the protocol of a suite wants.

Shapes: N observations, A action.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from mtrl.agent import Agent, refuse_wrong_action
from mtrl.seeding import torch_stream
from mtrl.types import SuiteSpec

ActionRule = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Observations (N, *observation) and task ids (N,) int64 to actions (N, A) float32 or (N,) int64."""


def mode_rule(agent: Agent) -> ActionRule:
    """The deterministic actions."""
    return lambda observation, task_ids: _checked(
        agent, agent.act(observation, task_ids, explore=False).action, task_ids
    )


def sampling_rule(agent: Agent, generator: torch.Generator) -> ActionRule:
    """Actions drawn from the policy; all randomness comes from `generator`, on the agent's device."""
    return lambda observation, tasks: _checked(agent, agent.sample(observation, tasks, generator), tasks)


def protocol_policy(agent: Agent, spec: SuiteSpec, seed: int) -> ActionRule:
    """The policy that evaluations of the suite judge and videos show.

    Its random numbers begin anew with every call: a checkpoint plays the same however often it is evaluated.
    """
    if not spec.samples_policy:
        return mode_rule(agent)
    return sampling_rule(agent, torch_stream(seed, "evaluation policy", device=agent.device))


def _checked(agent: Agent, action: np.ndarray, task_ids: np.ndarray) -> np.ndarray:
    refuse_wrong_action(agent, action, len(task_ids))
    return action
