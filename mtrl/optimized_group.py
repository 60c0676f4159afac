"""Parameters that are optimised together: one aggregator, one bound of the gradient's norm, fused Adam.

Shapes: M tasks.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from mtrl.aggregation import GradientAggregator, JacobianAggregator, LossFunction, Parameters, TaskLosses
from mtrl.errors import Diverged
from mtrl.matrix_products import torchs_products
from mtrl.networks import SelfUpdating
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
        self.parameters: Parameters = dict(modules.named_parameters())
        self.aggregator = aggregator
        aggregator.vectorized = all(getattr(part, "works_under_vmap", True) for part in modules.modules())
        self.takes_tasks_apart = isinstance(aggregator, JacobianAggregator) or not aggregator.vectorized
        self.max_grad_norm = max_grad_norm
        self.self_updating = [part for part in modules.modules() if isinstance(part, SelfUpdating)]
        apart = {parameter for part in self.self_updating for parameter in part.parameters()}
        optimized = [parameter for parameter in self.parameters.values() if parameter not in apart]
        device = optimized[0].device
        on_gpu = device.type == "cuda"
        # What recorded kernels read of the host's numbers, they read for good.
        rate: float | Tensor = torch.tensor(learning_rate, device=device) if on_gpu else learning_rate
        self.optimizer = torch.optim.Adam(optimized, lr=rate, eps=adam_epsilon, fused=True, capturable=on_gpu)
        # Of every task's loss and of the gradient's norm, on a GPU.
        self.not_finite = torch.zeros(aggregator.num_tasks + 1, dtype=torch.bool, device=device) if on_gpu else None

    def step(self, loss_of: LossFunction, batch: Batch) -> TaskLosses:
        """One gradient step on per-task losses; the only place that writes gradients of networks.

        Raises Diverged, before the step, if a loss or gradient is not finite. On a GPU, where that would have to be
        waited for, this step and all that follow do nothing instead, and `check` raises.
        """
        with torchs_products() if self.takes_tasks_apart and len(set(batch.counts)) > 1 else nullcontext():
            result = self.aggregator.backward(loss_of, batch, self.parameters)
        norm = nn.utils.get_total_norm(self._laid_out_gradients(), foreach=True)
        # Before clipping, which would spread a value that is not finite over all gradients.
        finite = torch.isfinite(norm)
        if self.not_finite is not None:
            self.not_finite |= torch.cat([torch.isfinite(result.losses), finite.view(1)]).logical_not()
        elif not bool(finite & torch.isfinite(result.losses).all()):
            self._name_what_is_not_finite(torch.isfinite(result.losses).logical_not())
        excess = ((norm + 1e-6) / self.max_grad_norm).clamp(min=1)  # how many times too long the gradient is
        left_out = None if self.not_finite is None else self.not_finite.any()
        step_scaled(self.optimizer, excess, left_out)
        for part in self.self_updating:
            for parameter in part.parameters():
                assert parameter.grad is not None
                clipped = parameter.grad / excess
                parameter.grad = clipped if left_out is None else torch.where(left_out, 0, clipped)
            part.step()
        return result

    def _laid_out_gradients(self) -> list[Tensor]:
        """All gradients, each with the strides of its parameter and memory of its own.

        Fused optimisers read and write parameter, gradient and moments as flat memory. What `torch.autograd.grad` and
        aggregators give may be transposed, or one tensor for two parameters.
        """
        taken: set[int] = set()
        gradients = []
        for parameter in self.parameters.values():
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.stride() != parameter.stride() or gradient.data_ptr() in taken:
                gradient = parameter.grad = torch.empty_like(parameter).copy_(gradient)
            taken.add(gradient.data_ptr())
            gradients.append(gradient)
        return gradients

    def check(self) -> None:
        """Raises Diverged if a loss or gradient on a GPU was not finite since the last state was loaded."""
        if self.not_finite is not None and bool(self.not_finite.any()):
            bad = self.not_finite[:-1]
            if not bool(bad.any()):
                raise Diverged(f"{self.name} gradient is not finite")  # steps since may have written others
            self._name_what_is_not_finite(bad)

    @property
    def learning_rate(self) -> float:
        """Of the steps to come; not part of the state, its owner sets it again after a restart."""
        return float(self.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, learning_rate: float) -> None:
        for parameters in self.optimizer.param_groups:
            if isinstance(parameters["lr"], Tensor):
                parameters["lr"].fill_(learning_rate)
            else:
                parameters["lr"] = learning_rate

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
        """Optimiser moments by parameter name, and the aggregator's state."""
        return {"optimizer": optimizer_state(self.optimizer, self.parameters), "aggregator": self.aggregator.state()}

    def load_state(self, state: State) -> None:
        load_optimizer_state(self.optimizer, self.parameters, state["optimizer"])
        self.aggregator.load_state(state["aggregator"])
        if self.not_finite is not None:
            self.not_finite.zero_()


def step_scaled(optimizer: torch.optim.Optimizer, divisor: Tensor | None, left_out: Tensor | None) -> None:
    """A step of a fused optimiser with gradients divided by `divisor` (), and none if `left_out` () bool is true.

    It does both as it reads the gradients, as torch.amp.GradScaler asks it to: no pass over them of its own.
    """
    flags = {"grad_scale": divisor, "found_inf": left_out}
    vars(optimizer).update({name: None if flag is None else flag.float() for name, flag in flags.items()})
    try:
        optimizer.step()
    finally:
        for name in flags:
            delattr(optimizer, name)


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Parameters) -> State:
    """An optimiser's moments by parameter name; empty before the first step."""
    return {name: dict(optimizer.state[value]) for name, value in parameters.items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, parameters: Parameters, state: State) -> None:
    """Takes up moments written by `optimizer_state`. Raises KeyError for a parameter that it lacks."""
    optimizer.state.clear()
    for name, value in parameters.items():
        # Copied: the optimiser writes in place, and the caller keeps its state. Moments lie as their parameter does.
        if stored := state[name]:
            optimizer.state[value] = {
                key: torch.empty_like(value if moment.shape == value.shape else moment, device=value.device).copy_(
                    moment
                )
                for key, moment in stored.items()
            }
