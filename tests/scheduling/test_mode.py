"""What a scheduler's vector does: shares of episodes and batches, or factors of the losses. Shapes: M tasks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.ppo import PPO
from agents.sac import SAC
from envs.point_mass import PointMass
from mtrl.agent import Agent
from mtrl.aggregation import GradientAggregator, JacobianAggregator, Mean, Parameters, TaskLosses
from mtrl.aggregation.projection.pcgrad import PCGrad
from mtrl.per_task import mean_per_task
from mtrl.scheduling import task_weights
from mtrl.scheduling.fixed import Fixed
from mtrl.scheduling.uniform import Uniform
from mtrl.testing.attributes import differences, leaves
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training import run
from mtrl.training.run import training_loop
from mtrl.training.train_state import TrainState
from mtrl.types import Batch
from tests.env.counting import Player, counting_suite
from tests.training.tiny_runs import in_child, tiny_config

WEIGHTS = (0.5, 0.3, 0.2, 0.0)
AGENTS: dict[str, tuple[type[Agent], Any]] = {
    "sac": (SAC, SAC.Config(batch_size=16, learning_starts=40)),
    "ppo": (PPO, PPO.Config(rollout_steps=10, epochs=1, minibatches=2)),
}


def fixed(spec: Any, mode: Any) -> Fixed:
    return Fixed(spec, Fixed.Config(weights=WEIGHTS, mode=mode), 1)


def test_weights_are_shares_or_factors_of_mean_one() -> None:
    spec = counting_suite(num_tasks=4).spec
    sampled, weighted = (task_weights(fixed(spec, mode), 4) for mode in ("sample", "weight"))
    assert sampled.shares.tolist() == list(WEIGHTS)
    assert sampled.loss_weights.tolist() == [1.0] * 4
    assert weighted.shares.tolist() == [0.25] * 4
    assert weighted.loss_weights.tolist() == pytest.approx([2.0, 1.2, 0.8, 0.0])


class EqualWeights(JacobianAggregator):
    def weights(self, gramian: torch.Tensor) -> torch.Tensor:
        return torch.full((len(gramian),), 1 / len(gramian), dtype=gramian.dtype)


@pytest.mark.parametrize("cls", [Mean, EqualWeights])
def test_both_modes_have_the_same_expected_gradient(cls: type[GradientAggregator]) -> None:
    # L_i = (x - i)^2 on every sample, at x = 5: the gradient is sum of v_i 2 (5 - i) = 2 (5 * .5 + 4 * .3 + 3 * .2).
    suite = counting_suite(num_tasks=4)
    state = make_train_state(make_agent(SAC, SAC.Config(), suite.spec), suite)
    Player(suite, state.buffer).play(20)
    parameters = {"x": torch.tensor([5.0], requires_grad=True)}

    def losses(parameters: Parameters, batch: Batch) -> TaskLosses:
        return TaskLosses(mean_per_task((parameters["x"] - batch.task_ids).square(), batch.task_ids, 4))

    for mode in ("sample", "weight"):
        weights = task_weights(fixed(suite.spec, mode), 4)
        batch = state.buffer.sample(20, weights.shares).weighted(weights.loss_weights)
        assert batch.counts == ((10, 6, 4, 0) if mode == "sample" else (5, 5, 5, 5))
        cls(4, cls.Config(), torch.Generator()).backward(losses, batch, parameters)
        assert parameters["x"].grad is not None
        assert parameters["x"].grad.item() == pytest.approx(2 * (5 * 0.5 + 4 * 0.3 + 3 * 0.2))


def new_state(agent: str, scheduler: Any = None, **parts: Any) -> TrainState:
    suite = PointMass("point-mass", PointMass.Config(), 1)
    cls, config = AGENTS[agent]
    made = make_agent(cls, config, suite.spec, num_envs=8, **parts)
    return make_train_state(made, suite, scheduler=scheduler and scheduler(suite.spec))


@pytest.mark.parametrize("agent", AGENTS)
def test_losses_are_weighed_and_episodes_and_batches_are_not(agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Batch] = []
    cls = AGENTS[agent][0]
    learn = cls.learn  # type: ignore[attr-defined]
    monkeypatch.setattr(cls, "learn", lambda self, batch: batches.append(batch) or learn(self, batch))
    state = new_state(agent, lambda spec: fixed(spec, "weight"), aggregator=PCGrad)
    progress = [progress for progress in training_loop(state, 8 * 45) if progress.metrics]
    assert state.envs.task_ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    for batch in batches:
        assert len(set(batch.counts)) == 1  # so that one vmap pass takes all gradients
        assert batch.shares.tolist() == pytest.approx(list(WEIGHTS))
    # What a task of weight 0 loses is still to be seen.
    assert all(torch.isfinite(value).all() for value in progress[-1].metrics.values())


@pytest.mark.parametrize("agent", AGENTS)
def test_with_equal_weights_both_modes_train_the_same_bits(agent: str) -> None:
    states = [
        new_state(agent, lambda spec, mode=mode: Uniform(spec, Uniform.Config(mode=mode), 1))
        for mode in ("sample", "weight")
    ]
    for state in states:
        assert any(progress.metrics for progress in training_loop(state, 8 * 30))
    parameters = [leaves(dict(state.agent.named_parameters())) for state in states]
    assert not differences(*parameters)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_task_of_weight_zero_changes_no_network(agent: str) -> None:
    # Another reward for task 3 alone leads to the same networks, though it is played and sampled.
    found = []
    for reward in (0.0, 100.0):
        state = new_state(agent, lambda spec: fixed(spec, "weight"))
        add = state.buffer.add

        def add_reward(observation: Any, action_step: Any, step: Any, add: Any = add, reward: float = reward) -> None:
            own = np.where(step.task_ids == 3, reward, step.reward).astype(np.float32)
            add(observation, action_step, replace(step, reward=own))

        state.buffer.add = add_reward  # type: ignore[method-assign]
        assert any(progress.metrics for progress in training_loop(state, 8 * 30))
        found.append(
            leaves({name: value for name, value in state.agent.named_parameters() if name != "temperatures.log_alpha"})
        )
    assert not differences(*found)


def test_metrics_hold_the_weights_of_the_losses(tmp_path: Path) -> None:
    scheduler = {"name": "dtp", "uniform_episodes": 1}
    config = tiny_config("point-mass-hard", scheduler=scheduler, total_env_steps=400)
    assert config.scheduler.config.mode == "weight"
    assert in_child(lambda: run.train(config, tmp_path / "run")) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "eval/kind" not in row]
    assert {value for name, value in rows[0].items() if name.startswith("train/share/")} == {1 / 8}
    assert rows[-1]["train/share/goal+0.8+0.8"] > 0.5
