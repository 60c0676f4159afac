"""What a parameter group makes of losses and gradients, against plain Adam. Shapes: M tasks, B batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import Tensor, nn

from mtrl.aggregation import Mean, Parameters, TaskLosses
from mtrl.encoders import encoders
from mtrl.errors import Diverged
from mtrl.networks import Output, PolicyArchitecture, SelfUpdating, run
from mtrl.networks.layers import uniform_noise
from mtrl.optim.parameter_group import ParameterGroup
from mtrl.types import Batch
from tests.agents.constants import batch_of
from tests.networks.test_architectures import CASES

TASKS = {1: [0, 0, 0, 0], 3: [0, 0, 1, 1, 2, 2]}


def group_of(module: nn.Module, num_tasks: int = 3, max_grad_norm: float = 0.1, **settings: Any) -> ParameterGroup:
    aggregator = Mean(num_tasks, Mean.Config(), torch.Generator())
    names = [f"task-{index}" for index in range(num_tasks)]
    return ParameterGroup(
        "group", module, aggregator, task_names=names, learning_rate=0.1, max_grad_norm=max_grad_norm, **settings
    )


def step_of_plain_adam(module: nn.Module, group: ParameterGroup, loss: Tensor) -> dict[str, Tensor]:
    """What a step makes of the optimised parameters, in plain torch."""
    apart = {parameter for part in group.self_updating for parameter in part.parameters()}
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grads_with_norm_(
        module.parameters(),
        group.max_grad_norm,
        nn.utils.get_total_norm([parameter.grad for parameter in module.parameters() if parameter.grad is not None]),
    )
    parameters = [parameter for parameter in module.parameters() if parameter not in apart]
    torch.optim.Adam(parameters, lr=group.learning_rate, eps=1e-5, fused=False, foreach=False).step()
    return {name: value.detach().clone() for name, value in module.named_parameters() if value not in apart}


def check_against_plain_adam(module: nn.Module, outputs: Any, num_tasks: int) -> None:
    """`outputs()` -> (B, n) of the module, B sorted by task in equal shares."""
    initial = {name: value.detach().clone() for name, value in module.named_parameters()}

    def per_task() -> Tensor:
        values = outputs()
        return values.sin().view(num_tasks, -1).mean(1)

    group = group_of(module, num_tasks)
    expected = step_of_plain_adam(module, group, per_task().mean())
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(initial[name])
            value.grad = None

    def loss_fn(parameters: Parameters, batch: Batch) -> TaskLosses:
        return TaskLosses(per_task())

    group.step(loss_fn, replace(batch_of(TASKS[num_tasks]), shares=torch.full((num_tasks,), 1 / num_tasks)))
    found = dict(module.named_parameters())
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name].detach(), value, atol=2e-3, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("num_tasks", TASKS)
@pytest.mark.parametrize(("cls", "config"), CASES)
def test_a_step_of_every_architecture_is_that_of_plain_adam(
    cls: type[PolicyArchitecture], config: Any, num_tasks: int
) -> None:
    # Fused Adam reads flat memory: a transposed gradient once moved the wrong weights (`sluice`; heads of one task).
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        network = cls(5, 4, num_tasks, config)
    task_ids = torch.tensor(TASKS[num_tasks])
    features = 3 * torch.randn(len(task_ids), 5, generator=generator)
    noise = uniform_noise(generator, len(task_ids), network.noise_size)
    check_against_plain_adam(network, lambda: 100 * run(network, features, task_ids, noise).values, num_tasks)


@pytest.mark.parametrize("name", [name for name in encoders.names() if name in ("impala", "nature")])
def test_a_step_of_every_encoder_is_that_of_plain_adam(name: str) -> None:
    space = gym.spaces.Box(0, 255, (4, 84, 84), "uint8")
    cls = encoders.get(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        encoder = cls(space, cls.Config())
    frames = torch.randint(0, 256, (6, 4, 84, 84), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    check_against_plain_adam(encoder, lambda: encoder(frames), 3)


class Sum(nn.Module):
    """Two weights whose gradients are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.own = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))


def test_two_parameters_with_one_gradient_are_clipped_once() -> None:
    module = Sum()
    group = group_of(module)
    weights = torch.tensor([1.0, 2.0, 3.0])
    group.step(
        lambda parameters, batch: TaskLosses((parameters["shared"] + parameters["own"]) * weights), batch_of([0, 1, 2])
    )
    norm = nn.utils.get_total_norm([parameter.grad for parameter in module.parameters() if parameter.grad is not None])
    assert norm.item() == pytest.approx(group.max_grad_norm, rel=1e-4)


def test_moments_of_a_transposed_parameter_are_taken_up_where_they_belong() -> None:
    scales = torch.arange(1.0, 7.0).view(3, 2)

    def loss_fn(parameters: Parameters, batch: Batch) -> TaskLosses:
        return TaskLosses((parameters["weight"] * scales).sin().sum(1))

    found = []
    for restarted in (False, True):
        module = nn.Module()
        module.weight = nn.Parameter(torch.zeros(2, 3).t())
        group = group_of(module, max_grad_norm=100.0)
        for _ in range(3):
            group.step(loss_fn, batch_of([0, 1, 2]))
            if restarted:
                state = group.state()
                moments = state["optimizer"]["weight"]
                moments |= {name: value.contiguous() for name, value in moments.items()}  # as a file holds them
                group.load_state(state)
        found.append(module.weight.detach().clone())
    assert torch.equal(*found)


def stepped_once() -> ParameterGroup:
    group = group_of(Sum())
    group.step(lambda parameters, batch: TaskLosses(parameters["shared"] + parameters["own"]), batch_of([0, 1, 2]))
    return group


def test_a_state_without_a_parameter_is_refused() -> None:
    state = stepped_once().state()
    del state["optimizer"]["own"]
    with pytest.raises(KeyError, match="own"):
        group_of(Sum()).load_state(state)


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_a_state_of_another_shape_is_refused(moment: str) -> None:
    state = stepped_once().state()
    state["optimizer"]["own"][moment] = torch.zeros(4)
    with pytest.raises(ValueError, match="group: the optimiser's moments of own have another shape"):
        group_of(Sum()).load_state(state)


def test_a_loaded_state_is_a_copy_and_brings_its_learning_rate() -> None:
    group, other = stepped_once(), group_of(Sum())
    group.learning_rate = 0.025
    state = group.state()
    other.load_state(state)
    assert other.learning_rate == 0.025
    kept = state["optimizer"]["own"]["exp_avg"].clone()
    other.step(lambda parameters, batch: TaskLosses(parameters["shared"] + parameters["own"]), batch_of([0, 1, 2]))
    assert torch.equal(state["optimizer"]["own"]["exp_avg"], kept)


def test_losses_of_networks_are_added_to_those_of_the_agent() -> None:
    module = Sum()

    def loss_fn(parameters: Parameters, batch: Batch) -> TaskLosses:
        output = Output(torch.ones(3, 2), losses={"size": parameters["own"] * torch.tensor([0.0, 1.0, 2.0])})
        return TaskLosses(parameters["shared"], {"reward": batch.reward}, outputs=(output,))

    batch = batch_of([0, 1, 2], reward=torch.tensor([1.0, 2.0, 3.0]))
    result = group_of(module, max_grad_norm=100.0).step(loss_fn, batch)
    assert result.losses.tolist() == [1 + 0, 1 + 1, 1 + 2]
    assert result.metrics["reward"].tolist() == [1.0, 2.0, 3.0]
    # Weighted by the tasks' shares like the agent's.
    torch.testing.assert_close(module.own.grad, torch.tensor([0.0, 1 / 3, 2 / 3]))


class Stepping(SelfUpdating):
    """Moves against its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(3))
        self.weight = nn.Linear(1, 1)

    def step(self, shares: torch.Tensor) -> None:
        assert self.table.grad is not None
        with torch.no_grad():
            self.table -= self.table.grad


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stepping, self.weight = Stepping(), nn.Parameter(torch.zeros(3))


def test_on_a_gpu_parts_that_move_themselves_stand_still_too_and_a_loaded_state_goes_on() -> None:
    module = Both()
    group = group_of(module)
    state = group.state()
    group.not_finite = torch.zeros(4, dtype=torch.bool)  # as it is on a GPU

    def loss_fn(parameters: Parameters, batch: Batch) -> TaskLosses:
        return TaskLosses((parameters["stepping.table"] + parameters["weight"]) * batch.reward)

    group.step(loss_fn, batch_of([0, 1, 2], reward=torch.tensor([1.0, torch.nan, 1.0])))
    group.step(loss_fn, batch_of([0, 1, 2], reward=torch.ones(3)))
    assert not module.stepping.table.any()
    assert not module.weight.any()
    with pytest.raises(Diverged, match=r"group loss is not finite for the task\(s\) task-1$"):
        group.check()
    group.load_state(state)
    group.check()
    group.step(loss_fn, batch_of([0, 1, 2], reward=torch.ones(3)))
    assert module.stepping.table.all()
    assert module.weight.all()


def test_a_gradient_that_was_not_finite_on_a_gpu_is_told_though_the_next_one_is() -> None:
    group = group_of(Sum())
    group.not_finite = torch.zeros(4, dtype=torch.bool)

    def loss_fn(parameters: Parameters, batch: Batch) -> TaskLosses:
        return TaskLosses((parameters["shared"] - 1).clamp(min=0).sqrt() * batch.reward)  # 0, with a slope of 0 / 0

    for reward in (torch.ones(3), torch.zeros(3)):
        group.step(loss_fn, batch_of([0, 1, 2], reward=reward))
    with pytest.raises(Diverged, match="group gradient is not finite"):
        group.check()
