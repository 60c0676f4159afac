"""Shares in a run: what is written of them, and slots that change tasks. Shapes: M tasks, N slots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.sac import SAC
from envs.point_mass import PointMass
from mtrl.agent import Components
from mtrl.aggregation import JacobianAggregator, Mean, Parameters, TaskLosses
from mtrl.env.target_quality import target_quality
from mtrl.errors import BadInput
from mtrl.evaluation.evaluator import evaluate
from mtrl.scheduling.active.a5c import A5C
from mtrl.scheduling.fixed import Fixed
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training import run
from mtrl.training.run import training_loop
from mtrl.types import Batch, TaskWeights
from tests.env.counting import audit, counting_suite
from tests.training.tiny_runs import in_child, tiny_config

SUITE = counting_suite(num_tasks=4)


def test_metrics_hold_the_shares_and_the_three_means(tmp_path: Path) -> None:
    config = tiny_config("point-mass-hard", scheduler={"name": "a5c", "uniform_episodes": 1}, total_env_steps=800)
    assert in_child(lambda: run.train(config, tmp_path / "run")) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "eval/kind" not in row]
    suite = PointMass("point-mass-hard", PointMass.Config(), 1)
    names = suite.spec.task_names
    shares = [[row[f"train/share/{name}"] for name in names] for row in rows]
    for row, own in zip(rows, shares, strict=True):
        assert sum(own) == pytest.approx(1)
        values = [row[f"train/return/{name}"] for name in names]
        returns = np.array([np.nan if value is None else value for value in values])
        expected = target_quality(returns, suite.spec.target_scores)
        assert {name: row[f"train/{name}"] for name in ("q_am", "q_gm", "q_hm")} == pytest.approx(dict(expected))
    assert set(shares[0]) == {1 / 8}
    assert rows[-1]["train/share/goal+0.8+0.8"] > 0.5


def test_a_suite_without_targets_is_refused_before_there_is_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "build_suite", lambda *_: SUITE)
    with pytest.raises(BadInput, match=r"needs a positive target return .* 'counting' has none for count-0, count-1"):
        run.train(tiny_config(scheduler="a5c"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_targets_there_are_no_means() -> None:
    state = make_train_state(make_agent(SAC, SAC.Config(learning_starts=10**6), SUITE.spec), SUITE)
    list(training_loop(state, 40))
    assert evaluate(state.agent, SUITE, 2, seed=1, num_workers=0).target_quality == {}


def test_an_evaluation_judges_by_the_suites_score() -> None:
    suite = PointMass("point-mass", PointMass.Config(), 1)
    result = evaluate(make_agent(SAC, SAC.Config(), suite.spec), suite, 3, seed=1, num_workers=0)
    assert result.mean_scores.tolist() == result.mean_returns.tolist()
    fractions = np.clip(result.mean_returns / [task.target_return for task in suite.spec.tasks], 0, 1)
    assert result.target_quality["q_am"] == pytest.approx(fractions.mean())


class Watched(SAC):
    """Keeps the batches that its critics learnt from."""

    def __init__(self, components: Components, config: SAC.Config):
        super().__init__(components, config)
        self.batches: list[Batch] = []

    def critic_losses(self, parameters: Parameters, batch: Batch) -> TaskLosses:
        self.batches.append(batch)
        return super().critic_losses(parameters, batch)


def test_a_slot_may_play_one_task_after_another() -> None:
    # Three slots for four tasks. Every stored transition says which episode it belongs to.
    scheduler = Fixed(SUITE.spec, Fixed.Config(weights=(4.0, 2.0, 1.0, 0.0)), 1)
    agent = make_agent(Watched, SAC.Config(batch_size=14, learning_starts=15), SUITE.spec, num_envs=3)
    state = make_train_state(agent, SUITE, 1, scheduler)
    episodes = [episode for progress in training_loop(state, 3 * 400) for episode in progress.episodes]
    for batch in agent.batches[-20:]:
        assert batch.counts == (8, 4, 2, 0)
        audit(batch, SUITE)
    audit(state.buffer.rollout(), SUITE)
    played = [{episode.task for episode in episodes if episode.slot == slot} for slot in range(3)]
    assert played == [{0}, {0, 1}, {1, 2}]
    started = np.bincount([episode.task for episode in episodes], minlength=4)
    np.testing.assert_allclose(started / started.sum(), np.array([4, 2, 1, 0]) / 7, atol=0.05)
    assert np.isnan(state.recent.mean_returns).tolist() == [False, False, False, True]


class EqualWeights(JacobianAggregator):
    def weights(self, gramian: torch.Tensor) -> torch.Tensor:
        return torch.full((len(gramian),), 1 / len(gramian))


@pytest.mark.parametrize("loss", ["critic_losses", "actor_losses"])
@pytest.mark.parametrize("suite", ["point-mass", "point-mass-discrete"])
def test_per_task_gradients_of_unequal_shares_add_up_to_the_mean(suite: str, loss: str) -> None:
    # The Jacobian methods take task slices there, and every task's gradient counts with its share.
    suite = PointMass(suite, PointMass.Config(), 1)
    agent = make_agent(Watched, SAC.Config(batch_size=30, learning_starts=8), suite.spec, num_envs=8)
    state = make_train_state(agent, suite)
    list(training_loop(state, 8 * 30))
    for weights, counts in (([0.5, 0.3, 0.2, 0.0], (15, 9, 6, 0)), ([1.0, 1.0, 2.0, 1.0], (6, 6, 12, 6))):
        agent.update(state.buffer, TaskWeights(np.array(weights), np.ones(4)))
        batch = agent.batches[-1]
        assert batch.counts == counts
        group = agent.critic_group if loss == "critic_losses" else agent.actor_group
        found: list[dict[str, torch.Tensor]] = []
        for cls in (Mean, EqualWeights):
            cls(4, cls.Config(), torch.Generator()).backward(getattr(agent, loss), batch, group.parameters)
            found.append({name: parameter.grad.clone() for name, parameter in group.parameters.items()})
        for name in found[0]:
            torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-6)


def test_shares_follow_what_training_episodes_bring() -> None:
    suite = PointMass("point-mass-hard", PointMass.Config(), 1)
    scheduler: Any = A5C(suite.spec, A5C.Config(uniform_episodes=1), 1)
    agent = make_agent(SAC, SAC.Config(learning_starts=10**6), suite.spec, num_envs=8)
    state = make_train_state(agent, suite, 1, scheduler)
    list(training_loop(state, 8 * 19))
    assert scheduler.weights().tolist() == [1 / 8] * 8
    list(training_loop(state, 8 * 21))
    assert scheduler.weights()[-1] == pytest.approx(0.9 + 0.1 / 8, abs=1e-6)
    # Slot s plays what stands at (s + u) / 8 of the cumulated shares: the hard task from 0.0875 on.
    list(training_loop(state, 8 * 41))
    assert state.envs.task_ids[1:].tolist() == [7] * 7
