"""The training loop. Every agent, on-policy or off-policy, runs through these lines.

Shapes: N slots, M tasks.
"""

from __future__ import annotations

from collections.abc import Iterator

from mtrl.train_state import TrainState
from mtrl.types import FinishedEpisode, Metrics, Progress


def train(state: TrainState, total_env_steps: int) -> Iterator[Progress]:
    """Alternates `agent.rollout_steps` vector steps with one update; yields after each, with nothing in flight.

    env_steps counts steps of single environments: one vector step adds `envs.num_envs`. An agent that learns from
    replay does so while the environments step, on what is stored by then.
    """
    agent, envs, buffer, scheduler = state.agent, state.envs, state.buffer, state.scheduler
    if state.observation is None:
        envs.set_task_weights(scheduler.weights())
        state.observation = envs.reset()
    while state.env_steps < total_env_steps:
        episodes: list[FinishedEpisode] = []
        metrics: Metrics = {}
        for step_of_rollout in range(agent.rollout_steps):
            acted = agent.act(state.observation, envs.task_ids, explore=True)
            envs.send(acted.action)
            if agent.learns_from_replay and step_of_rollout == agent.rollout_steps - 1 and buffer.num_rows:
                metrics = agent.update(buffer, scheduler.weights())
            step = envs.recv()
            buffer.add(state.observation, acted, step)
            agent.observe(step)
            episodes += step.episodes
            state.observation = step.observation
        if not agent.learns_from_replay:
            metrics = agent.update(buffer, scheduler.weights())
            buffer.clear()
        state.vector_steps += agent.rollout_steps
        state.env_steps += agent.rollout_steps * envs.num_envs
        state.update_rounds += bool(metrics)
        state.recent.observe(episodes)
        scheduler.observe(episodes)
        envs.set_task_weights(scheduler.weights())
        yield Progress(state.env_steps, state.vector_steps, metrics, tuple(episodes))
