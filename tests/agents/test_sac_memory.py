"""An update leaves nothing behind: what it kept of its graph would grow with every update."""

from __future__ import annotations

import pytest
import torch

import agents
import envs
from agents.sac import SAC
from benchmarks.updates.sac import filled_buffer
from mtrl.aggregation import aggregators
from mtrl.training.build import build_agent, build_suite
from mtrl.config.schema import resolve_config


@pytest.mark.parametrize("aggregator", aggregators.names())
def test_no_gradient_or_metric_keeps_the_graph_of_its_update(aggregator: str) -> None:
    agents.register()
    envs.register()
    config = resolve_config(
        {
            "suite": "point-mass",
            "aggregator": aggregator,
            "architecture": {"name": "multi-head", "width": 16},
        }
    )
    suite = build_suite(config.suite, config.settings.seed)
    agent = build_agent(config, suite, torch.device("cpu"))
    assert isinstance(agent, SAC)
    metrics = agent.learn_from(filled_buffer(suite.spec, capacity=30).sample(32))
    assert not any(value.requires_grad for value in metrics.values())
    for group in agent.groups().values():
        assert not any(parameter.grad.requires_grad for parameter in group.parameters.values())
