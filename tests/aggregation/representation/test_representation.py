"""Methods at the representation, against numbers worked by hand. Shapes: M tasks, B batch, d units."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.ppo import PPO
from agents.sac import SAC
from mtrl.aggregation import aggregators
from mtrl.aggregation.representation import RepresentationAggregator
from mtrl.aggregation.representation.graddrop import kept_signs, positive_purity
from mtrl.aggregation.representation.mgda_ub import closed_form
from mtrl.errors import BadInput
from mtrl.networks.hard_sharing.multi_head import MultiHead
from mtrl.networks.hard_sharing.separate import Separate
from mtrl.seeding import torch_stream
from mtrl.testing.aggregator import LinearProblem
from mtrl.testing.small_runs import make_agent, make_train_state
from mtrl.training.run import training_loop
from mtrl.types import Batch
from tests.agents.constants import CONTINUOUS, batch_of

NAMES = [name for name, cls in aggregators.items() if issubclass(cls, RepresentationAggregator)]


def make(name: str, num_tasks: int = 2, **settings: Any) -> Any:
    cls = aggregators.get(name)
    return cls(num_tasks, cls.Config(**settings), torch_stream(1, "aggregator"))


def changed(aggregator: Any, rows: list[list[float]], batch: Batch, representation: Tensor | None = None) -> Tensor:
    gradient = torch.tensor(rows)
    return aggregator.change(
        gradient, torch.ones_like(gradient) if representation is None else representation, batch, 0
    )


def test_mgda_ub_weighs_by_one_over_the_squared_norm() -> None:
    # Squared norms 1 and 4: a = (0.8, 0.2), and twice that where 1 each is `mean`.
    assert closed_form(torch.tensor([1.0, 4.0])).tolist() == pytest.approx([1.6, 0.4])
    found = changed(make("mgda-ub"), [[1.0, 0.0], [0.0, 2.0]], batch_of([0, 1], num_tasks=2))
    torch.testing.assert_close(found, torch.tensor([[1.6, 0.0], [0.0, 0.8]]))


def test_mgda_ub_gives_nothing_to_tasks_without_gradient() -> None:
    assert closed_form(torch.tensor([1.0, 0.0, 4.0])).tolist() == pytest.approx([1.6, 0.0, 0.4])
    assert closed_form(torch.zeros(2)).tolist() == [0.0, 0.0]


def test_mgda_ub_is_the_shortest_combination() -> None:
    squared_norms = torch.rand(5, generator=torch_stream(1, "norms"), dtype=torch.float64) + 0.1
    best = closed_form(squared_norms) / 5
    assert best.sum().item() == pytest.approx(1)
    # The gradient a_i G_ii of the squared length is the same for all.
    assert (best * squared_norms).tolist() == pytest.approx(5 * [float(best[0] * squared_norms[0])])


def test_graddrop_keeps_a_sign_with_the_probability_of_its_part() -> None:
    gradients = torch.tensor([[1.0, 1.0, 3.0, 0.0], [-1.0, 2.0, -1.0, 0.0]])
    assert positive_purity(gradients).tolist() == [0.5, 1.0, 0.75, 0.5]
    assert kept_signs(gradients, torch.tensor([0.4, 0.9, 0.8, 0.1])).tolist() == [
        [True, True, False, True],
        [False, True, True, True],
    ]


def test_graddrop_drops_one_of_two_opposite_tasks_half_of_the_time() -> None:
    aggregator = make("graddrop")
    batch = batch_of([0, 1], num_tasks=2)
    found = torch.stack([changed(aggregator, [[1.0], [-1.0]], batch) for _ in range(2000)]).squeeze(-1)
    assert set(map(tuple, found.tolist())) == {(1.0, 0.0), (0.0, -1.0)}
    assert (found[:, 0] == 1).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_graddrop_compares_gradients_after_the_sign_of_the_unit() -> None:
    # Where a unit is negative in one row, equal gradients are opposite ones.
    aggregator, batch = make("graddrop"), batch_of([0, 1], num_tasks=2)
    for _ in range(10):
        assert changed(aggregator, [[1.0], [1.0]], batch).tolist() == [[1.0], [1.0]]
        assert changed(aggregator, [[1.0], [1.0]], batch, torch.tensor([[1.0], [-1.0]])).sum() == 1


def test_graddrop_leaks_a_part_of_what_it_drops() -> None:
    found = changed(make("graddrop", leak=0.25), [[1.0], [-1.0]], batch_of([0, 1], num_tasks=2))
    assert sorted(found.abs().flatten().tolist()) == [0.25, 1.0]


def test_great_begins_as_mean_and_with_a_discriminator_at_chance() -> None:
    aggregator, batch = make("great", 3), batch_of([0, 1, 2])
    rows = [[1.0, 0.5], [-1.0, 0.3], [0.2, -0.9]]
    assert torch.equal(changed(aggregator, rows, batch), torch.tensor(rows))
    fresh = torch.zeros(3, 3)
    assert torch.nn.functional.cross_entropy(fresh, torch.arange(3)).item() == pytest.approx(math.log(3))


def test_greats_discriminator_learns_to_tell_tasks_apart_and_its_factors_work_against_it() -> None:
    batch = batch_of([0, 1], num_tasks=2)
    rows = torch.tensor([[1.0, 0.2], [0.2, 1.0]])

    def cross_entropy(aggregator: Any) -> float:
        gradient = rows * (1 + aggregator.memory["scale_0"].float())
        gradient = gradient / gradient.norm(dim=1, keepdim=True) * 2**0.5
        return torch.nn.functional.cross_entropy(
            gradient @ aggregator.memory["discriminator_0"].float().T, torch.arange(2)
        ).item()

    aggregator = make("great", learning_rate=0.01)
    for _ in range(20):
        aggregator.change(rows, torch.ones(2, 2), batch, 0)
    found = cross_entropy(aggregator)
    assert found < math.log(2)
    scale = aggregator.memory["scale_0"]
    # What gives a task away is scaled down, against what the two have in common.
    assert scale[0, 0] < scale[0, 1]
    assert scale[1, 1] < scale[1, 0]
    aggregator.memory["scale_0"] = torch.zeros(2, 2, dtype=torch.float64)
    assert cross_entropy(aggregator) < found


def test_great_is_mean_bit_for_bit_before_it_has_learned() -> None:
    gradients = []
    for name in ("great", "mean"):
        problem = LinearProblem((4, 2, 3))
        make(name, 3).backward(problem.loss, problem.batch, problem.parameters)
        gradients.append([parameter.grad for parameter in problem.parameters.values()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_behind_the_representation_keeps_the_gradient_of_mean(name: str) -> None:
    # In the problem that is the bias.
    problem, plain = LinearProblem((4, 2, 3)), LinearProblem((4, 2, 3))
    aggregator = make(name, 3)
    for _ in range(3):
        aggregator.backward(problem.loss, problem.batch, problem.parameters)
    make("mean", 3).backward(plain.loss, plain.batch, plain.parameters)
    assert torch.equal(problem.parameters["bias"].grad, plain.parameters["bias"].grad)
    assert not torch.equal(problem.parameters["weight"].grad, plain.parameters["weight"].grad)


@pytest.mark.parametrize("cls", [SAC, PPO], ids=lambda cls: cls.__name__)
def test_every_network_of_an_agent_has_a_representation_that_is_changed(cls: Any) -> None:
    config = SAC.Config(batch_size=24, learning_starts=8) if cls is SAC else PPO.Config(rollout_steps=8)
    agent = make_agent(cls, config, CONTINUOUS.spec, architecture=MultiHead, aggregator=aggregators.get("great"))
    for _ in training_loop(make_train_state(agent, CONTINUOUS), 40):
        pass
    networks = {
        name: sum(key.startswith("scale_") and key.count("_") == 1 for key in group.aggregator.memory)
        for name, group in agent.groups().items()
    }
    assert networks == ({"critic": 2, "actor": 1} if cls is SAC else {"actor-critic": 2})


def test_networks_without_a_representation_are_refused_in_a_line() -> None:
    agent = make_agent(
        SAC,
        SAC.Config(batch_size=24, learning_starts=8),
        CONTINUOUS.spec,
        architecture=Separate,
        aggregator=aggregators.get("mgda-ub"),
    )
    with pytest.raises(BadInput, match="works at the representation"):
        agent.learn(batch_of([0, 1, 2], noise={}))
