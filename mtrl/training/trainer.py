"""The training loop. Every agent, on-policy or off-policy, runs through these lines.

Shapes: N slots, M tasks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mtrl.optim.cpu import acting_threads
from mtrl.agent import Agent
from mtrl.buffer.rollout_buffer import RolloutBuffer
from mtrl.training.train_state import TrainState
from mtrl.types import Metrics, Progress


def train(state: TrainState, total_env_steps: int) -> Iterator[Progress]:
    """Lets the agent learn after every `agent.rollout_steps` vector steps; yields after each, with nothing in flight.

    env_steps counts steps of single environments: one vector step adds `envs.num_envs`. An agent that learns from
    replay does so while the environments step, on what is stored by then. A rollout that the end of training cuts off
    is not learnt from.
    """
    agent, envs, buffer, scheduler = state.agent, state.envs, state.buffer, state.scheduler
    if state.observation is None:
        envs.set_task_weights(scheduler.weights())
        state.observation = envs.reset()
    while state.env_steps < total_env_steps:
        metrics: Metrics = {}
        ends_rollout = (state.vector_steps + 1) % agent.rollout_steps == 0
        with acting_threads(envs.suite):
            acted = agent.act(state.observation, envs.task_ids, explore=True)
        envs.send(acted.action)
        if ends_rollout and agent.learns_from_replay and buffer.num_rows:
            metrics = _learn(agent, buffer, scheduler.weights())
        step = envs.recv()
        buffer.add(state.observation, acted, step)
        agent.observe(step)
        if ends_rollout and not agent.learns_from_replay:
            metrics = _learn(agent, buffer, scheduler.weights())
            buffer.clear()
        state.observation = step.observation
        state.vector_steps += 1
        state.env_steps += envs.num_envs
        state.update_rounds += bool(metrics)
        state.recent.observe(step.episodes)
        scheduler.observe(step.episodes)
        envs.set_task_weights(scheduler.weights())
        yield Progress(state.env_steps, state.vector_steps, metrics, step.episodes)


def _learn(agent: Agent, buffer: RolloutBuffer, task_weights: np.ndarray) -> Metrics:
    metrics = agent.update(buffer, task_weights)
    for group in agent.groups().values():
        group.check()
    return metrics
