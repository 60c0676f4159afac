"""Plug-ins of somebody else, each with one fault. Tests copy this file to a folder outside the project."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.sac import SAC
from mtrl.aggregation import GradientAggregator, Mean
from mtrl.aggregation.projection.pcgrad import PCGrad
from mtrl.encoders import Encoder, Identity
from mtrl.networks import Output, PolicyArchitecture
from mtrl.normalization import NoNormalizer
from mtrl.policies.policy import Single
from mtrl.scheduling import TaskScheduler
from mtrl.types import ActionStep


class Sound(PolicyArchitecture):
    """Keeps the contract."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: int = 8  # hidden units

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Config):
        super().__init__(in_features, out_features, num_tasks, config)
        self.num_tasks = num_tasks
        hidden = nn.Linear(in_features + num_tasks, config.width)
        self.layers = nn.Sequential(hidden, nn.Tanh(), nn.Linear(config.width, out_features))
        self.calls = [0]

    def one_hot(self, task_ids: Tensor) -> Tensor:
        return torch.eye(self.num_tasks)[task_ids]

    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return self.layers(torch.cat([features, self.one_hot(task_ids)], dim=-1))


# Architectures that fail.


class RaisesInInit(Sound):
    def __init__(self, *arguments: Any):
        raise LookupError("no such layer")


class RaisesInForward(Sound):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        raise LookupError("no such layer")  # here


class RaisesLater(Sound):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        self.calls[0] += 1
        if self.calls[0] > 25:
            raise LookupError("no such layer")
        return super().forward(features, task_ids)


class RaisesInALayer(Sound):
    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.layers = nn.Sequential(Layer(), self.layers)


class Layer(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values @ torch.zeros(1000, 1000)


class Exits(Sound):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        sys.exit(0)


class StopsIteration(Sound):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return next(iter(()))


class ForgetsSuper(Sound):
    def __init__(self, *arguments: Any):
        pass


class ForgetsSuperBeforeLayers(Sound):
    def __init__(self, *arguments: Any):
        self.layers = nn.Linear(2, 2)


class CallsSuperWithoutArguments(Sound):
    def __init__(self, *arguments: Any):
        super().__init__()


class CallsModuleInit(Sound):
    def __init__(self, *arguments: Any):
        nn.Module.__init__(self)


class OtherSignature(Sound):
    def __init__(self, in_features: int):
        pass


class NoForward(PolicyArchitecture):
    Config = Sound.Config

    def __init__(self, in_features: int, out_features: int, num_tasks: int, config: Any):
        super().__init__(in_features, out_features, num_tasks, config)
        self.layer = nn.Linear(in_features, out_features)


class Abstract(PolicyArchitecture):
    Config = Sound.Config


class ReturnsNone(Sound):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        self.layers(torch.cat([features, self.one_hot(task_ids)], dim=-1))


class ReturnsTuple(Sound):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features, task_ids), None


class ReturnsTupleInOutput(Sound):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return Output((super().forward(features, task_ids),))  # type: ignore[arg-type]


class ReturnsDoubles(Sound):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features, task_ids).double()


class ReturnsOneColumn(Sound):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features, task_ids)[:, :1]


class ReturnsAnotherShapeLater(Sound):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        self.calls[0] += 1
        return super().forward(features, task_ids)[:, : 1 if self.calls[0] > 25 else None]


class FlattensValues(Sound):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features, task_ids).squeeze(-1)


class BadValueConfig(Sound):
    @classmethod
    def value_config(cls, config: Any) -> Any:
        return config.no_such_field


class NoDataclass(Sound):
    class Config:  # type: ignore[assignment]
        width = 8


# Architectures that train and should not.


class PlainList(Sound):
    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.rest = [nn.Linear(arguments[0], arguments[1])]

    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features, task_ids) + self.rest[0](features)


class Dropout(Sound):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return F.dropout(super().forward(features, task_ids), 0.5)


class BatchStatistics(Sound):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features - features.mean(0), task_ids)


class WritesItsInput(Sound):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features.mul_(0.5), task_ids)


class OwnNumbers(Sound):
    def forward(self, features: Tensor, task_ids: Tensor) -> Any:
        return super().forward(features, task_ids) + torch.from_numpy(np.random.rand(len(features), 1)).float()


# Architectures that `vmap` refuses and that are sound all the same.


class CountsTasks(Sound):
    def one_hot(self, task_ids: Tensor) -> Tensor:
        return F.one_hot(task_ids + 0 * int(task_ids.sum()), self.num_tasks).float()


class OneHot(Sound):
    def one_hot(self, task_ids: Tensor) -> Tensor:
        return F.one_hot(task_ids, self.num_tasks).float()


# Other plug-ins.


class EncoderRaises(Identity):
    def forward(self, observation: Tensor) -> Tensor:  # type: ignore[override]
        raise LookupError("no such layer")


class EncoderOfAnotherSize(Identity):
    def forward(self, observation: Tensor) -> Tensor:  # type: ignore[override]
        return observation[:, 1:]


class EncoderWithoutSize(Encoder):
    def __init__(self, observation_space: Any, config: Any):
        super().__init__(observation_space, config)
        self.out_features = observation_space.shape


class PolicyReturnsDistribution(Single):
    def forward(self, *inputs: Any) -> Any:  # type: ignore[override]
        return super().forward(*inputs).distribution


class AggregatorForgetsAGradient(GradientAggregator):
    def backward(self, loss_fn: Any, batch: Any, parameters: Any) -> Any:
        result = loss_fn(parameters, batch)
        some = list(parameters.values())[1:]
        result.losses.sum().backward(inputs=some)
        return result._replace(losses=result.losses.detach())


class AggregatorReturnsNone(Mean):
    def backward(self, loss_fn: Any, batch: Any, parameters: Any) -> Any:
        super().backward(loss_fn, batch, parameters)


class AggregatorRaises(PCGrad):
    def weights(self, gramian: Tensor) -> Tensor:
        raise LookupError("no such task")


class AggregatorWithoutSuper(Mean):
    def __init__(self, *arguments: Any):
        pass


class SchedulerRaises(TaskScheduler):
    def on_episodes(self, episodes: Any) -> None:
        if episodes:
            raise LookupError("no such task")

    def weights(self) -> Any:
        return np.full(self.num_tasks, 1 / self.num_tasks)


class SchedulerWithoutSuper(SchedulerRaises):
    def __init__(self, spec: Any, config: Any, seed: int):
        self.num_tasks = spec.num_tasks


class SchedulerOfAnotherShape(SchedulerRaises):
    def weights(self) -> Any:
        return np.ones(1)


class SchedulerOfNaN(SchedulerRaises):
    def weights(self) -> Any:
        return np.full(self.num_tasks, np.nan)


class SchedulerOfLists(SchedulerRaises):
    def weights(self) -> Any:
        return super().weights().tolist()


class NormalizerRaises(NoNormalizer):
    def update_statistics(self, returns: Tensor, task_ids: Tensor, outputs: Any) -> None:
        raise LookupError("no such task")


class NormalizerOfAnotherShape(NoNormalizer):
    def denormalize(self, values: Tensor, task_ids: Tensor) -> Tensor:
        return values.unsqueeze(-1)


class AgentRaises(SAC):
    def learn(self, batch: Any) -> Any:
        raise LookupError("no such task")


class AgentActsInOneDimension(SAC):
    def act(self, observation: np.ndarray, task_ids: np.ndarray, explore: bool) -> ActionStep:
        return ActionStep(super().act(observation, task_ids, explore).action[:, 0])


class AgentReturnsNone(SAC):
    def update(self, buffer: Any, task_weights: Any) -> Any:
        super().update(buffer, task_weights)


class AgentOfAnotherMetric(SAC):
    def update(self, buffer: Any, task_weights: Any) -> Any:
        return super().update(buffer, task_weights) | {"histogram": torch.zeros(101)}
