"""One loop for every agent: what is collected, when it learns, and what it reports.

Shapes: T rows of time, N slots, M tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from agents.ppo import PPO
from agents.sac import SAC
from mtrl.agent import Components
from mtrl.scheduling import TaskScheduler
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from mtrl.training.train_state import TrainState
from mtrl.types import Batch, FinishedEpisode, Metrics
from tests.env.counting import audit, counting_suite

SUITE = counting_suite()
NUM_ENVS = 4


class Watching(PPO):
    """Keeps the rollouts it learnt from."""

    def __init__(self, components: Components, config: PPO.Config):
        super().__init__(components, config)
        self.rollouts: list[Batch] = []

    def with_advantages(self, rollout: Batch) -> Batch:
        self.rollouts.append(rollout)
        return super().with_advantages(rollout)


def test_an_on_policy_agent_learns_from_each_rollout_once() -> None:
    agent = make_agent(Watching, PPO.Config(rollout_steps=5), SUITE.spec, num_envs=NUM_ENVS)
    state = make_train_state(agent, SUITE)
    reported = list(training_loop(state, 7 * 5 * NUM_ENVS))
    assert [bool(progress.metrics) for progress in reported] == 7 * [False, False, False, False, True]
    assert len(agent.rollouts) == 7
    assert state.buffer.num_rows == 0
    list(training_loop(state, 7 * 5 * NUM_ENVS + 2 * NUM_ENVS))
    assert len(agent.rollouts) == 7, "the next rollout is not complete"
    assert state.buffer.num_rows == 2
    for rollout in agent.rollouts:
        assert rollout.reward.shape == (5, NUM_ENVS)
        audit(rollout, SUITE)
    for earlier, later in zip(agent.rollouts, agent.rollouts[1:], strict=False):
        going_on = ~(earlier.terminated | earlier.truncated)[-1]
        assert torch.equal(earlier.next_observation[-1][going_on], later.observation[0][going_on])


def sac_state(cls: type[SAC] = SAC, scheduler: TaskScheduler | None = None, **settings: Any) -> TrainState:
    config = SAC.Config(**{"batch_size": 6, "learning_starts": 2 * NUM_ENVS} | settings)
    return make_train_state(make_agent(cls, config, SUITE.spec, num_envs=NUM_ENVS), SUITE, scheduler=scheduler)


@pytest.mark.parametrize(
    ("update_interval", "vector_steps"),
    [(None, 1), (1, 1), (NUM_ENVS, 1), (NUM_ENVS + 1, 2), (3 * NUM_ENVS, 3)],
)
@pytest.mark.parametrize(("total", "turns"), [(40, 10), (37, 10), (36, 9)])
def test_env_steps_count_single_environments(
    update_interval: int | None, vector_steps: int, total: int, turns: int
) -> None:
    state = sac_state(learning_starts=NUM_ENVS, update_interval=update_interval)
    reported = list(training_loop(state, total))
    assert [progress.vector_steps for progress in reported] == list(range(1, turns + 1))
    learnt = [progress.vector_steps for progress in reported if progress.metrics]
    assert learnt == [step for step in range(2, turns + 1) if step % vector_steps == 0]
    assert [progress.env_steps for progress in reported] == [NUM_ENVS * p.vector_steps for p in reported]
    assert state.buffer.rows_added == reported[-1].vector_steps
    assert list(training_loop(state, total)) == []


def test_learning_from_replay_overlaps_with_stepping() -> None:
    state = sac_state()
    order: list[str] = []

    def note(owner: Any, name: str) -> None:
        method = getattr(owner, name)

        def noted(*arguments: Any, **keywords: Any) -> Any:
            order.append(name)
            return method(*arguments, **keywords)

        setattr(owner, name, noted)

    for owner, name in ((state.agent, "act"), (state.envs, "send"), (state.agent, "update"), (state.envs, "recv")):
        note(owner, name)
    run = training_loop(state, 10_000)
    for _ in range(5):
        next(run)
    order.clear()
    next(run)
    assert order == ["act", "send", "update", "recv"]


def test_every_finished_episode_is_reported_once() -> None:
    state = sac_state(learning_starts=10_000)
    reported = list(training_loop(state, 200 * NUM_ENVS))
    episodes = [episode for progress in reported for episode in progress.episodes]
    batch = state.buffer.rollout()
    ends = (batch.terminated | batch.truncated).numpy()
    for slot in range(NUM_ENVS):
        whole = np.split(batch.reward[:, slot].numpy(), np.flatnonzero(ends[:, slot]) + 1)[:-1]
        returns = [episode.return_ for episode in episodes if episode.slot == slot]
        assert returns == pytest.approx([rewards.sum() for rewards in whole], rel=1e-5)
    last = [episode.return_ for episode in episodes if episode.task == 0][-10:]
    assert state.recent.mean_returns[0] == pytest.approx(np.mean(last))


class OnlyOneTask(TaskScheduler):
    """Wants the last task as soon as an episode has ended."""

    def __init__(self) -> None:
        super().__init__(SUITE.spec, self.Config(), 1)
        self.seen: list[FinishedEpisode] = []

    def on_episodes(self, episodes: Sequence[FinishedEpisode]) -> None:
        self.seen += episodes

    def weights(self) -> np.ndarray:
        return np.array([0.0, 0.0, 1.0]) if self.seen else np.array([0.5, 0.5, 0.0])


def test_the_schedulers_weights_reach_environments_and_batches() -> None:
    shares: list[tuple[int, ...]] = []

    class Watched(SAC):
        def learn(self, batch: Batch) -> Metrics:
            shares.append(batch.counts)
            return super().learn(batch)

    state = sac_state(Watched, OnlyOneTask())
    list(training_loop(state, 40 * NUM_ENVS))
    assert set(state.buffer.rollout().task_ids[0].tolist()) == {0, 1}
    assert shares[0][2] == 0
    assert (state.envs.task_ids == 2).all()
    assert shares[-1] == (0, 0, 6)
