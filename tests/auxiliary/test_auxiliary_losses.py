"""Auxiliary losses: whatever reads whole batches is added to either agent's loss. Shapes: B batch, M tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.ppo import PPO
from agents.sac import SAC
from mtrl.agent import Agent
from mtrl.aggregation import GradientAggregator, Mean
from mtrl.aggregation.projection.pcgrad import PCGrad
from mtrl.auxiliary import AuxiliaryInputs, AuxiliaryTask
from mtrl.encoders import Encoder
from mtrl.per_task import mean_per_task
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from mtrl.types import Batch
from tests.agents.constants import CONTINUOUS

AGENTS: dict[type[Agent], Any] = {
    SAC: SAC.Config(batch_size=48, learning_starts=40, learning_rate=3e-2),
    PPO: PPO.Config(rollout_steps=16, epochs=8, minibatches=2, learning_rate=3e-2),
}


class Linear(Encoder):
    """One trained feature more than the observation has."""

    def __init__(self, observation_space: Any, config: Any):
        super().__init__(observation_space, config)
        self.out_features = observation_space.shape[0] + 1
        self.layer = nn.Linear(self.out_features - 1, 1)

    def forward(self, observation: Tensor) -> Tensor:
        return torch.cat([self.layer(observation), observation], dim=-1)


def error(features: Tensor, batch: Batch) -> Tensor:
    """Squared error (B,) of the first feature as a prediction of what came of an action.

    In the counting suite a reward is the number of the step plus the action's first component.
    """
    outcome = batch.next_observation[:, 3] + batch.reward - batch.action[:, 0]
    return (features[:, 0] - outcome).square()


class Prediction(AuxiliaryTask):
    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        return mean_per_task(error(inputs.features, inputs.batch), inputs.batch.task_ids, self.num_tasks)


def prediction_error(
    cls: type[Agent], auxiliary: list[type[AuxiliaryTask]], aggregator: type[GradientAggregator]
) -> float:
    """Mean error of the encoder after a short training with auxiliary losses."""
    agent = make_agent(cls, AGENTS[cls], CONTINUOUS.spec, encoder=Linear, aggregator=aggregator, auxiliary=auxiliary)
    state = make_train_state(agent, CONTINUOUS)
    for progress in training_loop(state, 4 * (16 * 5 + 8)):  # the last rollout is not learnt from
        assert all(bool(torch.isfinite(value).all()) for value in progress.metrics.values())
    batch = state.buffer.sample(96, np.ones(3))
    encoder = agent.critics.encoder if isinstance(agent, SAC) else agent.networks.encoder
    with torch.no_grad():
        return error(encoder(batch.observation), batch).mean().item()


@pytest.mark.parametrize("aggregator", [Mean, pytest.param(PCGrad, marks=pytest.mark.slow)])
@pytest.mark.parametrize("cls", AGENTS)
def test_features_learn_to_predict_what_comes_of_an_action(
    cls: type[Agent], aggregator: type[GradientAggregator]
) -> None:
    with_loss, without = (prediction_error(cls, tasks, aggregator) for tasks in ([Prediction], []))
    assert with_loss < 0.1 * without
