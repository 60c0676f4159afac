"""CUDA graphs: what they change is speed. Shapes: B batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from agents.sac import SAC
from mtrl.agent import Components
from mtrl.aggregation import TaskLosses
from mtrl.optim.cuda_graphs import MAX_GRAPHS, WARM_UP_CALLS, CudaGraphs
from mtrl.testing.small_runs import make_agent
from tests.agents.constants import CONTINUOUS, batch_of

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_forms_of_batch_that_hardly_come_back_run_eagerly() -> None:
    calls: list[tuple[int, ...]] = []

    def step(loss_fn: Any, batch: Any) -> TaskLosses:
        calls.append(batch.counts)
        return TaskLosses(batch.reward)

    graphs = CudaGraphs(step)
    batches = [batch_of([0] * (1 + index)) for index in range(MAX_GRAPHS + 3)]
    for _ in range(WARM_UP_CALLS):
        for batch in batches:
            assert graphs(step, batch).losses is batch.reward
    assert len(calls) == WARM_UP_CALLS * len(batches)


@needs_gpu
def test_a_group_learns_the_same_from_replayed_graphs() -> None:
    found = []
    for cuda_graphs in (False, True):

        class OnGpu(SAC):
            def __init__(self, components: Components, config: Any, graphs: bool = cuda_graphs):
                changes: dict[str, Any] = {"device": torch.device("cuda"), "cuda_graphs": graphs}
                super().__init__(replace(components, **changes), config)

        agent = make_agent(OnGpu, SAC.Config(), CONTINUOUS.spec)
        for update in range(WARM_UP_CALLS + 5):
            batch = batch_of([0, 0, 1, 1, 2, 2], reward=torch.arange(6.0) + update)
            batch = replace(batch.map_columns(torch.Tensor.cuda), shares=batch.shares.cuda())
            agent.learn(batch)
        for group in agent.groups().values():
            group.check()
        found.append(agent.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value)
