"""Adam (Kingma and Ba, 2015, arXiv:1412.6980) on parameters that are one tensor: torch's fused one, in one call."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adam import adam

from mtrl.flat_parameters import FlatParameters
from mtrl.types import State


class FlatAdam:
    """Moves flat parameters, or the first of them, by the gradients that they have gathered."""

    def __init__(self, flat: FlatParameters, learning_rate: float, epsilon: float = 1e-8, number: int | None = None):
        """`number`: of parameters to be moved, from the first on; default: all."""
        self.epsilon = epsilon
        self._flat = flat
        self._size = flat.start(number)
        self._on_gpu = flat.values.is_cuda
        # What recorded kernels read of the host's numbers, they read for good.
        self._learning_rate: float | Tensor = learning_rate
        if self._on_gpu:
            self._learning_rate = torch.tensor(learning_rate, device=flat.values.device)
        self._step = torch.zeros((), device=flat.values.device)
        self._mean, self._mean_square = (torch.zeros_like(flat.values[: self._size]) for _ in range(2))

    @property
    def learning_rate(self) -> float:
        """Of the steps to come; not part of the state, its owner sets it again after a restart."""
        return float(self._learning_rate)

    @learning_rate.setter
    def learning_rate(self, learning_rate: float) -> None:
        if isinstance(self._learning_rate, Tensor):
            self._learning_rate.fill_(learning_rate)
        else:
            self._learning_rate = learning_rate

    @torch.no_grad()
    def step(self, divisor: Tensor | None = None, left_out: Tensor | None = None) -> None:
        """A step with gradients divided by `divisor` (), and none if `left_out` () bool is true.

        Fused Adam does both as it reads the gradients, as torch.amp.GradScaler asks it to: no pass of its own.
        """
        adam(
            [self._flat.values[: self._size]],
            [self._flat.gradient[: self._size]],
            [self._mean],
            [self._mean_square],
            [],
            [self._step],
            fused=True,
            capturable=self._on_gpu,
            grad_scale=None if divisor is None else divisor.float(),
            found_inf=None if left_out is None else left_out.float(),
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._learning_rate,
            weight_decay=0.0,
            eps=self.epsilon,
            maximize=False,
        )
        self._flat.changed()

    def state(self) -> dict[str, State]:
        """Moments by parameter name, and the number of steps, which is one for all."""
        means, mean_squares = self._flat.split(self._mean), self._flat.split(self._mean_square)
        return {
            name: {"step": self._step, "exp_avg": mean, "exp_avg_sq": mean_squares[name]}
            for name, mean in means.items()
        }

    def load_state(self, state: dict[str, State]) -> None:
        """Takes up a state written by `state`. Raises KeyError for a parameter that it lacks.

        What has no moments is taken as new: checkpoints of before the first step once had none.
        """
        for name, own in self.state().items():
            for moment, values in own.items():
                values.copy_(state[name][moment] if state[name] else torch.zeros_like(values))
