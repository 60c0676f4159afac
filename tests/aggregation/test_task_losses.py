"""Per-task gradients in few passes against one pass per task. Shapes: M tasks, B batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.ppo import PPO
from agents.sac import SAC
from mtrl.aggregation import Parameters, TaskLosses, task_gradients
from mtrl.aggregation.task_losses import passes_over_tasks
from mtrl.networks import PolicyArchitecture, run
from mtrl.networks.layers import uniform_noise
from mtrl.per_task import mean_per_task
from mtrl.seeding import seeded_construction, torch_stream
from mtrl.testing.aggregator import LinearProblem
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from mtrl.types import Batch
from tests.agents.constants import CONTINUOUS, DISCRETE
from tests.networks.test_architectures import CASES

CPU = torch.device("cpu")


def assert_passes_agree(loss: Any, batch: Batch, parameters: Parameters) -> None:
    arguments = loss, batch, parameters, len(batch.counts)
    (found, vectorized), (expected, sliced) = task_gradients(*arguments), task_gradients(*arguments, False)
    for name, gradient in expected.items():
        margin = 1e-5 * float(gradient.detach().abs().max())
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-3, atol=margin, msg=lambda text, n=name: f"{n}: {text}"
        )
    torch.testing.assert_close(vectorized.losses, sliced.losses, rtol=1e-4, atol=1e-6)
    if sliced.gauge is not None:
        torch.testing.assert_close(vectorized.gauge, sliced.gauge, rtol=1e-4, atol=1e-6)
    assert vectorized.metrics.keys() == sliced.metrics.keys()
    for name, values in sliced.metrics.items():
        torch.testing.assert_close(vectorized.metrics[name], values, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "counts", [(4,), (5, 5, 5), (1, 6, 2), (0, 7, 0), (3, 0, 0, 9), (0, 1, 400), (400, 1, 2, 399)], ids=str
)
def test_any_shares_give_what_one_pass_per_task_gives(counts: Sequence[int]) -> None:
    problem = LinearProblem(counts)
    assert_passes_agree(problem.loss, problem.batch, problem.parameters)


@pytest.mark.parametrize("counts", [(2, 5, 3), (4, 0, 1)], ids=str)
@pytest.mark.parametrize(("cls", "config"), CASES)
def test_unequal_shares_work_with_every_architecture(
    cls: type[PolicyArchitecture], config: Any, counts: Sequence[int]
) -> None:
    with seeded_construction(1, "initial weights"):
        network = cls(3, 4, len(counts), config)
    if not network.works_under_vmap:
        pytest.skip("takes one pass per task")
    problem = LinearProblem(counts)
    noise = uniform_noise(torch_stream(1, "noise"), len(problem.batch.reward), network.noise_size)
    batch = replace(problem.batch, noise={} if noise is None else {"noise": noise})

    def loss(parameters: Parameters, batch: Batch) -> TaskLosses:
        def forward(*inputs: Tensor | None) -> Any:
            return torch.func.functional_call(network, dict(parameters), tuple(x for x in inputs if x is not None))

        output = run(_Called(forward, network), batch.observation, batch.task_ids, batch.noise.get("noise"))
        values = (output.values - batch.reward.unsqueeze(-1)).square().mean(-1)
        losses = mean_per_task(values, batch.task_ids, len(counts))
        for auxiliary in output.losses.values():
            losses = losses + auxiliary
        return TaskLosses(losses, {"error": values.detach()}, gauge=losses)

    assert_passes_agree(loss, batch, dict(network.named_parameters()))


class _Called:
    """A network whose forward is a function."""

    def __init__(self, forward: Any, network: PolicyArchitecture):
        self.forward, self.out_features = forward, network.out_features

    def __call__(self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None) -> Any:
        return self.forward(features, task_ids, noise)


AGENTS: dict[Any, Any] = {
    SAC: SAC.Config(batch_size=24, learning_starts=8),
    PPO: PPO.Config(rollout_steps=12, epochs=1, minibatches=1),
}


@pytest.mark.parametrize("suite", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("cls", AGENTS, ids=lambda cls: cls.__name__)
def test_unequal_shares_work_with_every_loss(cls: Any, suite: Any) -> None:
    # The discrete tasks differ in which actions are legal: a row is none of another task's.
    agent = make_agent(cls, AGENTS[cls], suite.spec)
    state = make_train_state(agent, suite)
    seen: list[tuple[Any, Batch]] = []
    for group in agent.groups().values():
        group.step = lambda loss, batch, step=group.step: seen.append((loss, batch)) or step(loss, batch)
    for _ in training_loop(state, 48):
        pass
    for name, group in agent.groups().items():
        loss = agent.losses if cls is PPO else getattr(agent, f"{name}_losses")
        batch = next(batch for known, batch in reversed(seen) if known == loss)
        drop = (batch.task_ids == 1) & (torch.arange(len(batch.reward)) % 3 > 0)
        rest = batch.map_columns(lambda values, kept=~drop: values[kept])
        counts = torch.bincount(rest.task_ids, minlength=len(batch.counts))
        rest = replace(rest, counts=tuple(counts.tolist()), shares=counts / counts.sum())
        assert len(set(rest.counts)) > 1
        assert_passes_agree(loss, rest, group.parameters)


def test_similar_counts_share_a_pass_and_skewed_ones_do_not() -> None:
    parts, _ = passes_over_tasks((128, 120, 0, 100), CPU)
    assert [part.tasks.tolist() for part in parts] == [[0, 1, 3]]
    parts, _ = passes_over_tasks((3000, 10, 9, 2990), CPU)
    assert sorted(part.tasks.tolist() for part in parts) == [[0, 3], [1, 2]]


def test_a_task_is_filled_up_with_a_row_of_another() -> None:
    parts, order = passes_over_tasks((1, 0, 3), CPU)
    assert parts[0].rows is not None
    assert parts[0].rows.tolist() == [[0, 1, 1], [1, 2, 3]]
    assert order is not None
    assert order.tolist() == [0, 3, 4, 5]


def test_equal_shares_are_not_copied() -> None:
    parts, order = passes_over_tasks((4, 4), CPU)
    assert [part.rows for part in parts] == [None]
    assert order is None
