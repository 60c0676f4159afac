"""The contract of an architecture finds what it is meant to find. Each class below breaks it in one way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtrl.networks import Output, PolicyArchitecture
from mtrl.testing import check_architecture


class Plain(PolicyArchitecture):
    """Keeps the contract: a linear layer over features and task embedding."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: int = 4  # of the embedding

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.num_tasks, self.out_features = num_tasks, out_features
        self.embedding = nn.Embedding(num_tasks, config.width)
        self.layer = nn.Linear(in_features + config.width, out_features)
        self.build()

    def build(self) -> None: ...

    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return self.layer(torch.cat([features, self.embedding(task_ids)], dim=-1))


class Routed(Plain):
    """Keeps the contract, with everything an author may use."""

    noise_size = 2
    route_size = 2

    def forward(
        self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None, route: Tensor | None = None
    ) -> Any:
        if route is None:
            route = torch.ones(len(features), 2, dtype=torch.int64) if noise is None else (noise > 0.5).long()
        values = super().forward(features, task_ids) + route.float().mean(-1, keepdim=True)
        return Output(
            values,
            route=route,
            route_log_prob=-route.float().sum(-1),
            representation=values,
            route_entropy=route.float().sum(-1),
            losses={"size": self.embedding.weight.square().sum(-1)},
            diagnostics={"mean": route.float().mean(-1)},
        )


class OneTaskAtATime(Plain):
    """Keeps the contract: it says that vmap refuses it."""

    works_under_vmap = False

    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        values = super().forward(features, task_ids)
        return 2 * values if values.sum().item() > 1e30 else values


class RefusedByVmap(Plain):
    """Keeps the contract: where vmap refuses it, training takes one pass per task."""

    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        values = super().forward(features, task_ids)
        return 2 * values if values.sum().item() > 1e30 else values


@pytest.mark.parametrize("cls", [Plain, Routed, OneTaskAtATime, RefusedByVmap])
def test_an_architecture_that_keeps_the_contract_passes(cls: type[PolicyArchitecture]) -> None:
    check_architecture(cls)
    check_architecture(cls, cls.Config(width=2))


class InheritsItsFields(Plain):
    """Keeps the contract: a Config without fields of its own."""

    class Config(Plain.Config): ...


def test_a_config_without_fields_of_its_own_needs_no_decorator() -> None:
    check_architecture(InheritsItsFields)


class MutableConfig(Plain):
    @dataclass
    class Config:
        width: int = 4


class NoDefault(Plain):
    @dataclass(frozen=True)
    class Config:
        width: int


class NoDataclass(Plain):
    class Config:
        width = 4


class Undecorated(Plain):
    class Config(Plain.Config):
        depth: int = 1


class WrongShape(Plain):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features, task_ids).squeeze(-1)


class DoublePrecision(Plain):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features, task_ids).double()


class DrawsByItself(Plain):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return nn.functional.dropout(super().forward(features, task_ids), 0.5)


class CountsCalls(Plain):
    def build(self) -> None:
        self.history: list[int] = []

    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        self.history.append(len(features))
        return super().forward(features, task_ids)


class KeepsStatistics(Plain):
    def build(self) -> None:
        self.register_buffer("average", torch.zeros(1))

    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        self.average += features.detach().mean()
        return super().forward(features, task_ids)


class LooksAtTheBatch(Plain):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features - features.mean(0), task_ids)


class LooksAtPositions(Plain):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features, torch.arange(len(features)) % self.num_tasks)


class HidesATensor(Plain):
    def build(self) -> None:
        self.hidden = torch.randn(1)

    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features, task_ids) + self.hidden


class DiagnosticOfNoRow(Plain):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return Output(super().forward(features, task_ids), diagnostics={"size": self.layer.weight.detach()[0]})


class SlicesAParameterList(Plain):
    def build(self) -> None:
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(2))

    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        (last,) = self.scales[1:]  # wraps what functional_call put there into a new parameter
        return super().forward(features, task_ids) * self.scales[0] * last


class Unused(Plain):
    def build(self) -> None:
        self.spare = nn.Linear(2, 2)


class Detached(Plain):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return self.layer(torch.cat([features, self.embedding(task_ids).detach()], dim=-1))


class Frozen(Plain):
    def build(self) -> None:
        self.embedding.weight.requires_grad_(False)


class Explodes(Plain):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features.exp(), task_ids)


class WritesItsInput(Plain):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features.mul_(2), task_ids)


class OneLossForAll(Routed):
    def forward(
        self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None, route: Tensor | None = None
    ) -> Any:
        return Output(
            super().forward(features, task_ids, noise, route).values, losses={"size": self.layer.bias.square().sum()}
        )


class NeedsNoise(Plain):
    noise_size = 1

    def forward(self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None) -> Any:
        shift = torch.rand(len(features), 1) if noise is None else noise
        return super().forward(features, task_ids) + shift


class RouteOfUnknownSize(Routed):
    route_size = 0


class GivesNoRoute(Plain):
    route_size = 1


class RouteOfFloats(Routed):
    def forward(
        self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None, route: Tensor | None = None
    ) -> Any:
        output = super().forward(features, task_ids, noise, route)
        return dataclasses.replace(output, route=output.route.float())


class ForgetsTheRoute(Routed):
    def forward(
        self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None, route: Tensor | None = None
    ) -> Any:
        return super().forward(features, task_ids, noise)


class RepresentationOfTheBatch(Routed):
    def forward(
        self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None, route: Tensor | None = None
    ) -> Any:
        output = super().forward(features, task_ids, noise, route)
        return dataclasses.replace(output, representation=output.values.mean(0))


class RouterOutOfReach(Routed):
    def build(self) -> None:
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(
        self, features: Tensor, task_ids: Tensor, noise: Tensor | None = None, route: Tensor | None = None
    ) -> Any:
        output = super().forward(features, task_ids, noise, route)
        log_prob = nn.functional.log_softmax(self.logits, dim=0)[output.route].sum(-1)
        return dataclasses.replace(output, route_log_prob=log_prob.detach())


class NeedsOneDtype(Plain):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        values = super().forward(features, task_ids)
        products = features @ features.new_ones(features.shape[-1], values.shape[-1])
        return torch.zeros(values.shape).index_add(0, torch.arange(len(values)), products) + values


class NeedsRows(Plain):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features - 0 * features.amax(0), task_ids)


class OwnGenerator(Plain):
    def build(self) -> None:
        generator = torch.Generator()
        generator.seed()
        nn.init.normal_(self.layer.weight, generator=generator)


FAULTS: list[tuple[type[PolicyArchitecture], str]] = [
    (MutableConfig, "Config is not frozen"),
    (NoDefault, "'width' has no default"),
    (NoDataclass, "is no dataclass"),
    (Undecorated, r"is no dataclass of its own; decorate it: @dataclass\(frozen=True, kw_only=True\)"),
    (WrongShape, r"it returned \(1,\) torch.float32 from forward, expected \(1, 1\)"),
    (DoublePrecision, r"it returned \(1, 1\) torch.float64 from forward, expected \(1, 1\) torch.float32"),
    (DrawsByItself, "the same inputs give another output"),
    (CountsCalls, r"forward writes to the module: history\[6\]"),
    (KeepsStatistics, "the same inputs give another output|forward writes to the module: average"),
    (LooksAtTheBatch, "a row gets another output alone than in a batch"),
    (LooksAtPositions, "the order of the rows changes what a row gets"),
    (HidesATensor, "another instance with the same state_dict gives other outputs"),
    (DiagnosticOfNoRow, r"diagnostic 'size' has shape \(5,\); its first dimension must be the rows"),
    (SlicesAParameterList, r"the gradient of 'scales.1' is another; forward may copy a parameter"),
    (Unused, r"no gradient reaches \['spare.bias', 'spare.weight'\]"),
    (Detached, r"no gradient reaches \['embedding.weight'\]"),
    (Frozen, "parameter 'embedding.weight' is not trained; constants are buffers"),
    (Explodes, "features of size 1e\\+03 give values or gradients that are not finite"),
    (WritesItsInput, "forward changes its inputs in place"),
    (OneLossForAll, r"auxiliary loss 'size' has shape \(\), not one per task"),
    (NeedsNoise, "the same inputs give another output"),
    (RouteOfUnknownSize, r"route has shape \(1, 2\), not \(1, 0\)"),
    (GivesNoRoute, "it declares route_size 1, and forward gives no route"),
    (RouteOfFloats, "route is torch.float32, not int64"),
    (ForgetsTheRoute, "another when the route is passed back as `route`"),
    (RepresentationOfTheBatch, r"representation has shape \(1,\), not \(rows, d\)"),
    (RouterOutOfReach, r"no gradient reaches \['logits'\]"),
    (NeedsOneDtype, "under `precision` bfloat16 it fails .*need `.float\\(\\)`"),
    (NeedsRows, "forward takes no empty batch"),
    (OwnGenerator, "made twice with one seed, parameter 'layer.weight' differs"),
]


@pytest.mark.parametrize(("cls", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_architecture_is_told_what_is_wrong(cls: type[PolicyArchitecture], message: str) -> None:
    with pytest.raises(AssertionError, match=message) as caught:
        check_architecture(cls)
    assert cls.__qualname__ in str(caught.value)


def test_randomness_hidden_from_the_outputs_is_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    forward: Callable[..., Any] = Plain.forward

    def drawing(self: Plain, features: Tensor, task_ids: Tensor) -> Any:
        torch.rand(1)
        return forward(self, features, task_ids)

    monkeypatch.setattr(Plain, "forward", drawing)
    with pytest.raises(AssertionError, match=r"forward of .*Plain .* uses the global generator of torch"):
        check_architecture(Plain)
