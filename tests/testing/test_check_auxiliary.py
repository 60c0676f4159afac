"""The contract of auxiliary tasks: every class of the suite keeps it, and each fault is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtrl.auxiliary import AuxiliaryInputs, AuxiliaryTask, auxiliary_tasks
from mtrl.errors import BadInput
from mtrl.per_task import mean_per_task
from mtrl.policies import SquashedGaussianHead
from mtrl.policies.distributions import MaskedCategorical
from mtrl.testing import check_auxiliary

# Distillation needs trained teachers, which it has tests of its own with.
OWN = sorted(name for name, cls in auxiliary_tasks.items() if cls.__module__.startswith("mtrl.auxiliary."))


@pytest.mark.parametrize("name", OWN)
def test_every_task_keeps_the_contract(name: str) -> None:
    check_auxiliary(auxiliary_tasks.get(name))


def test_a_model_of_several_steps_keeps_it() -> None:
    cls = auxiliary_tasks.get("forward-dynamics")
    check_auxiliary(cls, cls.Config(steps=3))


class Sound(AuxiliaryTask):
    def __init__(self, context: Any, config: Any):
        super().__init__(context, config)
        self.head = nn.Linear(context.encoder.out_features, 1)

    def errors(self, inputs: AuxiliaryInputs) -> Tensor:
        return self.head(inputs.features).squeeze(1).square()

    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        return mean_per_task(self.errors(inputs), inputs.batch.task_ids, self.num_tasks)


class Calming(AuxiliaryTask):
    """Keeps the contract: draws the policy to the middle."""

    trains = "policy"
    learns_features = False

    def loss(self, inputs: AuxiliaryInputs) -> Tensor:
        policy = inputs.result.distribution
        return (policy.logits if isinstance(policy, MaskedCategorical) else policy.mean).square().sum(-1)

    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        return mean_per_task(self.loss(inputs), inputs.batch.task_ids, self.num_tasks)


class CalmingPPO(Calming):
    """Keeps the contract: it says that it needs PPO's distributions."""

    def __init__(self, context: Any, config: Any):
        super().__init__(context, config)
        if isinstance(context.policy.head, SquashedGaussianHead):
            raise BadInput("no entropy in closed form")

    def loss(self, inputs: AuxiliaryInputs) -> Tensor:
        return super().loss(inputs) - inputs.result.distribution.entropy()


class CalmingFeatures(Calming):
    learns_features = True


class CalmingNobody(Calming):
    def loss(self, inputs: AuxiliaryInputs) -> Tensor:
        return super().loss(inputs).detach() + 0 * inputs.result.distribution.kl_divergence(inputs.result.distribution)


class CalmingTogether(Calming):
    def loss(self, inputs: AuxiliaryInputs) -> Tensor:
        return super().loss(inputs).mean() * super().loss(inputs)


class OneLossForAll(Sound):
    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        return self.errors(inputs).mean()


class Mixing(Sound):
    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        errors = self.errors(inputs)
        return mean_per_task(errors * errors.mean(), inputs.batch.task_ids, self.num_tasks)


class Everywhere(Sound):
    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        return super().forward(inputs) + 1


class Counting(Sound):
    def __init__(self, context: Any, config: Any):
        super().__init__(context, config)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: AuxiliaryInputs) -> Tensor:
        self.calls += 1
        return super().forward(inputs)


class Drawing(Sound):
    def errors(self, inputs: AuxiliaryInputs) -> Tensor:
        return super().errors(inputs) * torch.rand(())


class Unused(Sound):
    def __init__(self, context: Any, config: Any):
        super().__init__(context, config)
        self.forgotten = nn.Linear(1, 1)


class Detached(Sound):
    def errors(self, inputs: AuxiliaryInputs) -> Tensor:
        return self.head(inputs.features.detach()).squeeze(1).square()


class Forgetting(Sound):
    """A scale that is no buffer."""

    scale = 1.0

    def after_step(self, encoder: nn.Module) -> None:
        self.scale += 1

    def errors(self, inputs: AuxiliaryInputs) -> Tensor:
        return self.scale * super().errors(inputs)


class Refusing(Sound):
    def __init__(self, context: Any, config: Any):
        super().__init__(context, config)
        raise BadInput("not today")


def test_a_sound_task_keeps_it() -> None:
    check_auxiliary(Sound)


@pytest.mark.parametrize("cls", [Calming, CalmingPPO])
def test_a_sound_task_that_trains_the_policy_keeps_it(cls: type[AuxiliaryTask]) -> None:
    check_auxiliary(cls)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (OneLossForAll, r"returned losses \(\) from forward, expected losses \(1,\)"),
        (Mixing, "a task's loss depends on samples of others"),
        (Everywhere, "a task without samples has a loss"),
        (Counting, "forward changes the task"),
        (Drawing, "forward gives other losses each time|global generator"),
        (Unused, "no gradient reaches 'forgotten.weight'"),
        (Detached, "no gradient reaches the encoder"),
        (Forgetting, "after state and load_state it goes on differently"),
        (CalmingFeatures, "trains the policy; set learns_features = False"),
        (CalmingNobody, "no gradient reaches the policy, which it trains"),
        (CalmingTogether, "a task's loss depends on samples of others"),
        (Refusing, "refuses images and vectors, discrete and continuous: not today"),
    ],
)
def test_each_fault_is_named(cls: type[AuxiliaryTask], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_auxiliary(cls)
