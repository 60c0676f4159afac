"""Auxiliary losses against numbers by hand. Shapes: B batch, F features, M tasks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mtrl.aggregation import TaskLosses
from mtrl.auxiliary import AuxiliaryInputs, auxiliary_tasks
from mtrl.auxiliary.contrastive import Contrastive, info_nce, shifted
from mtrl.auxiliary.control import Control, Deconvolution, chosen_q, feature_changes, greedy_q, pixel_changes
from mtrl.auxiliary.value_replay import ValueReplay
from mtrl.errors import BadInput
from mtrl.seeding import torch_stream
from mtrl.testing.auxiliary import HEADS, SPACES, _Learner
from mtrl.types import Batch
from tests.agents.constants import batch_of


def test_one_changed_pixel_is_a_quarter_of_its_cell() -> None:
    frame = torch.zeros(1, 1, 4, 4)
    following = frame.clone()
    following[0, 0, 0, 0] = 1
    assert pixel_changes(frame, following, 2).tolist() == [[0.25, 0, 0, 0]]


def test_pixels_that_fill_no_cell_are_left_out_at_both_sides() -> None:
    following = torch.zeros(1, 1, 6, 4)
    following[:, :, 0] = 1
    following[:, :, 5] = 1
    assert pixel_changes(torch.zeros(1, 1, 6, 4), following, 4).tolist() == [[0.0]]


def test_features_that_do_not_change_reward_nothing_and_others_by_the_mean_of_the_task() -> None:
    features = torch.zeros(3, 2)
    following = torch.tensor([[1.0, 3.0], [0.0, 0.0], [5.0, 0.0]])
    changes = feature_changes(features, following, torch.tensor([0, 1, 2]), 3)
    assert changes.tolist() == [[0.5, 1.5], [0.0, 0.0], [2.0, 0.0]]


def test_advantages_are_centred() -> None:
    outputs = torch.tensor([[[1.0], [2.0], [4.0]]])  # V = 1, A = 2, 4
    assert [chosen_q(outputs, torch.tensor([action])).item() for action in (0, 1)] == [0.0, 2.0]
    assert greedy_q(outputs).item() == 2.0


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_the_map_of_chosen_actions_is_that_among_the_maps_of_all(size: tuple[int, int]) -> None:
    network = Deconvolution(7, 1 + 5, size, hidden=8)
    features, action = torch.randn(9, 7), torch.randint(0, 5, (9,))
    torch.testing.assert_close(network.chosen_q(features, action), chosen_q(network(features), action))


class TwoCells(Control):
    """Rewards 1 and 0; Q is 2 and 0 for both actions, and the target network's 3 and 1."""

    def __init__(self, context, config):  # type: ignore[no-untyped-def]
        super().__init__(context, config)
        layer = nn.Linear(context.encoder.out_features, 4 * 2)
        nn.init.zeros_(layer.weight)
        layer.bias.data = torch.tensor([2.0, 0, 0, 0, 0, 0, 0, 0])
        self.set_network(nn.Sequential(layer, nn.Unflatten(1, (4, 2))))
        self.target[0].bias.data = torch.tensor([3.0, 1, 0, 0, 0, 0, 0, 0])

    def rewards(self, inputs, next_features):  # type: ignore[no-untyped-def]
        return torch.tensor([[1.0, 0.0]]).expand(len(next_features), 2)


def test_the_loss_of_control_is_the_squared_error_summed_over_cells() -> None:
    learner = _Learner(TwoCells, TwoCells.Config(), SPACES[1], HEADS[0], 2)
    batch = batch_of([0, 1], num_tasks=2, action=torch.tensor([0, 2]), terminated=torch.tensor([False, True]))
    result = learner.group.step(learner.losses, batch)
    # (1 + .9 * 3 - 2)^2 + (.9 * 1)^2; without a bootstrap (1 - 2)^2
    expected = torch.tensor([1.7**2 + 0.9**2, 1.0])
    torch.testing.assert_close(result.metrics["auxiliary/task"], expected)


@pytest.mark.parametrize("name", ["pixel-control", "feature-control"])
def test_targets_of_control_stay_for_all_epochs_of_a_rollout(name: str) -> None:
    cls = auxiliary_tasks.get(name)
    learner = _Learner(cls, cls.Config(), SPACES[0], HEADS[0], 2)
    group = learner.group

    def losses(batch: Batch) -> Tensor:
        result = learner.losses(group.parameters, batch)
        return group.auxiliary_losses_of("task", group.auxiliaries["task"], result, group.parameters, batch)

    batch = learner.batch((3, 4), 1)
    rollout = group.on_rollout(batch)
    torch.testing.assert_close(losses(rollout), losses(batch))
    learner.task[0].target.load_state_dict({key: own + 1 for key, own in learner.task[0].target.state_dict().items()})
    assert (losses(rollout) - losses(batch)).abs().min() > 0.01


def test_images_are_shifted_and_their_borders_repeated() -> None:
    image = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3)
    assert shifted(image, torch.tensor([[1, -1]]))[0, 0].tolist() == [[3, 3, 4], [6, 6, 7], [6, 6, 7]]


def test_contrast_is_among_the_samples_of_a_task() -> None:
    logits = torch.zeros(3, 3)
    losses = info_nce(logits, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(losses, torch.tensor([math.log(2), math.log(2), 0.0]))


def test_contrast_of_many_rows_is_computed_in_float32_under_autocast() -> None:
    task = _Learner(Contrastive, Contrastive.Config(), SPACES[2], HEADS[0], 2).task[0]
    batch = batch_of([0] * 600 + [1] * 40, num_tasks=2, observation=torch.rand(640, 6))
    columns = task.columns(batch, torch_stream(1, "views"))
    inputs = AuxiliaryInputs(batch, TaskLosses(torch.zeros(2)), torch.nn.Identity(), columns)
    task.target = torch.nn.Identity()
    exact = task(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(task(inputs), exact)


def test_the_replay_keeps_the_newest_of_each_task() -> None:
    task = _Learner(ValueReplay, ValueReplay.Config(size=4), SPACES[2], HEADS[0], 2).task[0]
    assert isinstance(task, ValueReplay)
    returns = torch.tensor([1.0, 10.0, 2.0, 3.0])
    rollout = batch_of([0, 1, 0, 0], num_tasks=2, extras={"return": returns})
    task.on_rollout(rollout, torch.nn.Flatten())
    assert sorted(task.returns[0].tolist()) == [2.0, 3.0]
    drawn = task.columns(batch_of([0] * 20 + [1] * 20, num_tasks=2), torch.Generator().manual_seed(1))
    assert {*drawn["return"][:20].tolist()} == {2.0, 3.0}
    assert {*drawn["return"][20:].tolist()} == {10.0}


@pytest.mark.parametrize(
    ("name", "spaces", "message"),
    [
        ("pixel-control", SPACES[1], r"needs images \(channels, height, width\)"),
        ("pixel-control", SPACES[2], "needs discrete actions"),
        ("feature-control", SPACES[2], "needs discrete actions"),
    ],
)
def test_what_a_task_cannot_learn_from_is_refused(name: str, spaces: object, message: str) -> None:
    cls = auxiliary_tasks.get(name)
    with pytest.raises(BadInput, match=message):
        _Learner(cls, cls.Config(), spaces, HEADS[0], 2)
