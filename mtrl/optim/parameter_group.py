"""Parameters that are optimised together: one aggregator, one bound of the gradient's norm, fused Adam.

Shapes: M tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mtrl.aggregation import GradientAggregator, JacobianAggregator, LossFunction, Parameters, TaskLosses
from mtrl.errors import Diverged
from mtrl.flat_adam import FlatAdam
from mtrl.flat_parameters import FlatParameters
from mtrl.optim.matmul_backend import torchs_products
from mtrl.networks import SelfUpdating
from mtrl.recorded import recorded
from mtrl.types import Batch, State


class OptimizedGroup:
    """Parameters that share an optimiser, an aggregator and one gradient-norm bound."""

    def __init__(
        self,
        name: str,
        modules: nn.Module,
        aggregator: GradientAggregator,
        learning_rate: float,
        max_grad_norm: float,
        adam_epsilon: float = 1e-5,
    ):
        self.name = name
        self.aggregator = aggregator
        aggregator.vectorized = all(getattr(part, "works_under_vmap", True) for part in modules.modules())
        self.takes_tasks_apart = isinstance(aggregator, JacobianAggregator) or not aggregator.vectorized
        self.max_grad_norm = max_grad_norm
        self.self_updating = [part for part in modules.modules() if isinstance(part, SelfUpdating)]
        apart = {parameter for part in self.self_updating for parameter in part.parameters()}
        named = dict(modules.named_parameters())
        optimized: Parameters = {name: value for name, value in named.items() if value not in apart}
        self.parameters: Parameters = {**optimized, **named}
        self.flat = FlatParameters(self.parameters)
        self.optimizer = FlatAdam(self.flat, learning_rate, adam_epsilon, number=len(optimized))
        # Of every task's loss and of the gradient's norm, on a GPU.
        self.not_finite = (
            torch.zeros(aggregator.num_tasks + 1, dtype=torch.bool, device=self.flat.values.device)
            if self.flat.values.is_cuda
            else None
        )

    def step(self, loss_of: LossFunction, batch: Batch) -> TaskLosses:
        """One gradient step on per-task losses; the only place that writes gradients of networks.

        Raises Diverged, before the step, if a loss or gradient is not finite. On a GPU, where that would have to be
        waited for, this step and all that follow do nothing instead, and `check` raises.
        """
        with torchs_products() if self.takes_tasks_apart and len(set(batch.counts)) > 1 else nullcontext():
            result = self.aggregator.backward(loss_of, batch, self.parameters)
        self.flat.gather_gradients()
        norm = self.flat.gradient_norm()
        # Looked at before clipping, which would spread a value that is not finite over all gradients.
        if self.not_finite is not None:
            self.not_finite |= torch.cat([torch.isfinite(result.losses), torch.isfinite(norm).view(1)]).logical_not()
            left_out = self.not_finite.any()
        else:
            if not math.isfinite(norm.item() + result.losses.sum().item()):
                self._name_what_is_not_finite(torch.isfinite(result.losses).logical_not())
            left_out = None
        excess = ((norm + 1e-6) / self.max_grad_norm).clamp(min=1)  # how many times too long the gradient is
        self.optimizer.step(excess, left_out)
        for part in self.self_updating:
            for parameter in part.parameters():
                assert parameter.grad is not None
                clipped = parameter.grad / excess
                parameter.grad = clipped if left_out is None else torch.where(left_out, 0, clipped)
            part.step()
        return result

    def recorded(self, loss_of: LossFunction) -> LossFunction:
        """`loss_of`, of the group's own parameters by recorded programs (see `mtrl.recorded`)."""
        if self.takes_tasks_apart:
            return loss_of
        of_batch: Callable[[Batch], TaskLosses] = recorded(
            partial(loss_of, self.parameters), tuple(self.parameters.values()), loss_of.__qualname__
        )
        return lambda parameters, batch: (
            of_batch(batch) if parameters is self.parameters else loss_of(parameters, batch)
        )

    def bind(self, module: nn.Module, parameters: Parameters, prefix: str = "") -> Callable[..., Any]:
        """A module of the group as a function, of a tuple, that reads its parameters from `parameters`.

        These are named as the group's; `prefix` marks the module's own.
        """
        if parameters is self.parameters:
            # Called as it is: `functional_call` walks all modules, 0.3 ms per call for two small critics.
            return lambda inputs: module(*inputs)
        own = {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
        return partial(functional_call, module, own)

    def check(self) -> None:
        """Raises Diverged if a loss or gradient on a GPU was not finite since the last state was loaded."""
        if self.not_finite is not None and bool(self.not_finite.any()):
            bad = self.not_finite[:-1]
            if not bool(bad.any()):
                raise Diverged(f"{self.name} gradient is not finite")  # steps since may have written others
            self._name_what_is_not_finite(bad)

    def _name_what_is_not_finite(self, losses: Tensor) -> None:
        """`losses` (M,) bool."""
        bad = losses.nonzero().flatten().tolist()
        if bad:
            raise Diverged(f"{self.name} loss is not finite for the task(s) with index {bad}")
        names = [
            name
            for name, parameter in self.parameters.items()
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
        ]
        raise Diverged(f"{self.name} gradient is not finite: {names or 'its norm overflows'}")

    def state(self) -> State:
        """The optimiser's and the aggregator's; parameters that move themselves have no moments."""
        return {"optimizer": self.optimizer.state(), "aggregator": self.aggregator.state()}

    def load_state(self, state: State) -> None:
        """Takes up a state written by `state`. Raises KeyError for a parameter that it lacks."""
        self.optimizer.load_state(state["optimizer"])
        self.aggregator.load_state(state["aggregator"])
        if self.not_finite is not None:
            self.not_finite.zero_()
