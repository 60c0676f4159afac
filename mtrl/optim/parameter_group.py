"""Parameter groups: parameters with one optimiser, one aggregator and one gradient-norm bound.

Shapes: M tasks, B batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mtrl.aggregation import GradientAggregator, LossFunction, Parameters, TaskLosses, aggregate, cosines_of, gramian_of
from mtrl.auxiliary import AuxiliaryInputs, AuxiliaryTask
from mtrl.auxiliary.auxiliary_task import refuse_wrong_losses
from mtrl.data_parallel.learning import average_gradients, own_generator
from mtrl.errors import Diverged
from mtrl.networks import SelfUpdating
from mtrl.optim.cuda_graphs import CudaGraphs
from mtrl.optim.matmul_backend import default_matmul_backend
from mtrl.optim.precision import autocast
from mtrl.seeding import load_torch_stream_state
from mtrl.types import Batch, Metrics, Precision, State


@dataclass
class LastStep:
    """What a step leaves for diagnostics. Nothing that is learned depends on it, so it is not saved."""

    weights: tuple[Tensor, Tensor] | None = None  # those of the tasks (M,), and their shares (M,)
    losses: tuple[LossFunction, Batch] | None = None


ValueErrors = Callable[[Parameters, Tensor, Tensor, Tensor], Tensor]
"""(parameters, observation, task_ids, returns in reward units) -> squared errors (B,) of a value function."""


@dataclass(frozen=True)
class Auxiliary:
    """An auxiliary task of a group."""

    task: AuxiliaryTask
    prefix: str  # of its parameters among the group's
    generator: torch.Generator


class ParameterGroup:
    """Parameters of a module that are optimised together by Adam (Kingma and Ba, 2015, arXiv:1412.6980).

    Parameters of `SelfUpdating` parts get gradients like the others and move by the part's own rule.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        aggregator: GradientAggregator,
        *,
        task_names: Sequence[str],
        learning_rate: float,
        max_grad_norm: float,
        adam_epsilon: float = 1e-5,
        precision: Precision = "float32",
        encoder: nn.Module | None = None,
        value_error: ValueErrors | None = None,
        auxiliaries: Mapping[str, Auxiliary] | None = None,
        cuda_graphs: bool = False,
    ):
        """encoder, auxiliaries: parts of `module`; auxiliary tasks, which need an encoder, by name."""
        self.name = name
        self.aggregator = aggregator
        self.task_names = tuple(task_names)
        self.initial_learning_rate = learning_rate
        self.max_grad_norm = max_grad_norm
        self.encoder = encoder
        self.value_error = value_error
        self.auxiliaries = dict(auxiliaries or {})
        self.horizon = max((auxiliary.task.horizon for auxiliary in self.auxiliaries.values()), default=0)
        self._gated = {name: own for name, own in self.auxiliaries.items() if own.task.config.gate}
        self._encoder_prefix = next((f"{name}." for name, part in module.named_modules() if part is encoder), "")
        self.parameters: Parameters = {name: own for name, own in module.named_parameters() if own.requires_grad}
        self.self_updating = [part for part in module.modules() if isinstance(part, SelfUpdating)]
        apart = {parameter for part in self.self_updating for parameter in part.parameters()}
        self._optimized = {name: value for name, value in self.parameters.items() if value not in apart}
        self._apart = {name: value for name, value in self.parameters.items() if value in apart}
        aggregator.vectorized = all(getattr(part, "works_under_vmap", True) for part in module.modules())
        self.needs_per_task_gradients = (
            aggregator.needs_per_task_gradients or not aggregator.vectorized or bool(self._gated)
        )
        device = next(iter(self.parameters.values())).device
        on_gpu = device.type == "cuda"
        self.autocast = autocast(precision, device)
        self.optimizer = torch.optim.Adam(
            list(self._optimized.values()),
            # On a GPU a tensor: a captured graph would read a number of the host once and for all.
            lr=torch.tensor(learning_rate, device=device) if on_gpu else learning_rate,
            eps=adam_epsilon,
            fused=True,
            capturable=on_gpu,
        )
        # Of every task's loss and of the gradient's norm, on a GPU.
        self.not_finite = torch.zeros(len(task_names) + 1, dtype=torch.bool, device=device) if on_gpu else None
        self._update = CudaGraphs(self._eager_step) if cuda_graphs and on_gpu else self._eager_step
        self.keeps_last_batch = False  # for `conflict`
        self._last = LastStep()

    def step(self, loss_fn: LossFunction, batch: Batch) -> TaskLosses:
        """One gradient step on per-task losses (M,), auxiliary losses included; returns them and the metrics.

        Among the metrics is the loss of each auxiliary task without its weight, the same for all samples of a task.

        Raises Diverged, before the step, if a loss or gradient is not finite. On a GPU, where reading that would stall
        it, this step and all that follow are skipped instead, and `check` raises.
        """
        batch = self.with_columns(batch)
        result = self._update(loss_fn, batch)
        self._last.weights = None if result.weights is None else (result.weights, batch.shares)
        self._last.losses = (loss_fn, batch) if self.keeps_last_batch else None
        return result

    def _eager_step(self, loss_fn: LossFunction, batch: Batch) -> TaskLosses:
        with _backend_of(batch) if self.needs_per_task_gradients else nullcontext():
            loss_fn = self._complete(loss_fn, self._open_gates(loss_fn, batch))
            result = aggregate(self.aggregator, loss_fn, batch, self.parameters)
        average_gradients(self.parameters.values())
        # Before clipping, which would spread a value that is not finite over all gradients.
        norm = _gradient_norm(self._optimized)
        self._check_finite(result.losses, norm if not self._apart else norm + _gradient_norm(self._apart))
        nn.utils.clip_grads_with_norm_(self._optimized.values(), self.max_grad_norm, norm)
        self.optimizer.step()
        for part in self.self_updating:
            part.step(batch.shares)
        self.aggregator.after_step(loss_fn, batch, self.parameters)
        for auxiliary in self.auxiliaries.values():
            auxiliary.task.after_step(self.encoder)  # type: ignore[arg-type]
        return result

    def task_weights(self) -> Metrics:
        """Weights (M,) of the tasks in the last step, NaN without samples; empty where the aggregator has none."""
        if self._last.weights is None:
            return {}
        weights, shares = self._last.weights
        return {f"{self.name}/task_weight": torch.where(shares > 0, weights, torch.nan)}

    @torch.no_grad()
    def conflict(self) -> Metrics:
        """How the task gradients of the last step's batch agree, at the parameters of now; changes nothing.

        Cosines (M, M), NaN for a task without gradient, and the share of pairs of tasks with a negative one. Empty
        unless `keeps_last_batch` was set before the step. Costs about as much as a step.
        """
        if self._last.losses is None:
            return {}
        cosine = cosines_of(gramian_of([gradient.flatten(1) for gradient in self.last_task_gradients().values()]))
        pairs = cosine[*torch.triu_indices(len(cosine), len(cosine), 1)]
        rate = (pairs < 0).sum() / pairs.isfinite().sum().clamp(min=1)
        return {f"{self.name}/cosine": cosine, f"{self.name}/conflict_rate": rate}

    def last_losses(self) -> tuple[LossFunction, Batch]:
        """The loss function of the last step, with all that is added to it, and its batch.

        Raises ValueError unless `keeps_last_batch` was set before the step.
        """
        if self._last.losses is None:
            raise ValueError(f"{self.name}: the last batch was not kept")
        loss_fn, batch = self._last.losses
        return self._complete(loss_fn), batch

    @torch.no_grad()
    def last_task_gradients(self) -> Mapping[str, Tensor]:
        """Task gradients (M, *shape) by parameter of the last step's batch, at the parameters of now. As above."""
        loss_fn, batch = self.last_losses()
        with _backend_of(batch):
            return self.aggregator.task_gradients(loss_fn, batch, self.parameters)[0]

    def _complete(self, loss_fn: LossFunction, gates: Mapping[str, Tensor] | None = None) -> LossFunction:
        """`loss_fn` in the group's precision, with the auxiliary losses of the networks and of the group.

        gates: factors (M,) of auxiliary tasks by name; 1 where not given.
        """

        def losses(parameters: Parameters, batch: Batch) -> TaskLosses:
            with self.autocast():
                result = loss_fn(parameters, batch)
                total = result.losses
                for output in result.outputs:
                    for added in output.losses.values():
                        total = total + added
                metrics = dict(result.metrics)
                for auxiliary in self.auxiliaries.values():
                    total = total * auxiliary.task.agent_weight()
                for name, auxiliary in self.auxiliaries.items():
                    own = self.auxiliary_losses_of(name, auxiliary, result, parameters, batch)
                    metrics[f"auxiliary/{name}"] = own.detach()[batch.task_ids]
                    if gates and name in gates:
                        metrics[f"auxiliary/{name}_gate"] = gates[name][batch.task_ids]
                    total = total + auxiliary.task.weight() * (own * gates[name] if gates and name in gates else own)
            return result._replace(losses=total, metrics=metrics)

        return losses

    def auxiliary_losses_of(
        self, name: str, auxiliary: Auxiliary, result: TaskLosses, parameters: Parameters, batch: Batch
    ) -> Tensor:
        """Losses (M,) of one auxiliary task, without its weight."""
        start = f"auxiliary.{name}."
        columns = {**batch.extras, **batch.noise}
        inputs = AuxiliaryInputs(
            batch=batch,
            result=result,
            encode=self.bind(self.encoder, parameters, self._encoder_prefix),  # type: ignore[arg-type]
            columns={key.removeprefix(start): own for key, own in columns.items() if key.startswith(start)},
            value_error=None if self.value_error is None else functools.partial(self.value_error, parameters),
        )
        return refuse_wrong_losses(auxiliary.task, self.bind(auxiliary.task, parameters, auxiliary.prefix)(inputs))

    @torch.no_grad()
    def on_rollout(self, batch: Batch) -> Batch:
        """The rollout (B,) with what the auxiliary tasks compute once for all its epochs."""
        with self.autocast():
            columns = {
                f"auxiliary.{name}.{key}": column
                for name, auxiliary in self.auxiliaries.items()
                for key, column in auxiliary.task.on_rollout(batch, self.encoder).items()  # type: ignore[arg-type]
            }
        return replace(batch, extras={**batch.extras, **columns}) if columns else batch

    def with_columns(self, batch: Batch) -> Batch:
        """The batch with what the auxiliary tasks read beside it."""
        noise = {
            f"auxiliary.{name}.{key}": column
            for name, auxiliary in self.auxiliaries.items()
            for key, column in auxiliary.task.columns(batch, own_generator(auxiliary.generator)).items()
        }
        return replace(batch, noise={**batch.noise, **noise}) if noise else batch

    def _open_gates(self, loss_fn: LossFunction, batch: Batch) -> dict[str, Tensor]:
        """Which losses of gated auxiliary tasks count, (M,) of 0 and 1 by name (Du et al., 2018, arXiv:1812.02224).

        1 where the cosine of the task's auxiliary gradient with that of the agent's loss is not negative. The cosine is
        that by the parameters that the agent's loss has too.
        """
        if not self._gated:
            return {}
        own_prefixes = tuple(auxiliary.prefix for auxiliary in self.auxiliaries.values())

        def gradients(losses: LossFunction) -> dict[str, Tensor]:
            found, _ = self.aggregator.task_gradients(losses, batch, self.parameters)
            return {name: value for name, value in found.items() if not name.startswith(own_prefixes)}

        def main(parameters: Parameters, batch: Batch) -> TaskLosses:
            with self.autocast():
                return TaskLosses(loss_fn(parameters, batch).losses)

        agents = gradients(main)
        gates = {}
        for name, auxiliary in self._gated.items():

            def own(parameters: Parameters, batch: Batch, name: str = name, auxiliary: Auxiliary = auxiliary) -> Any:
                with self.autocast():
                    result = loss_fn(parameters, batch)
                    return TaskLosses(self.auxiliary_losses_of(name, auxiliary, result, parameters, batch))

            products = [(value * agents[key]).flatten(1).sum(1) for key, value in gradients(own).items()]
            gates[name] = (torch.stack(products).sum(0) >= 0).float()
        return gates

    def _check_finite(self, losses: Tensor, norm: Tensor) -> None:
        if self.not_finite is None:
            if not math.isfinite(norm.item() + losses.sum().item()):
                self._raise_diverged(torch.isfinite(losses).logical_not())
            return
        self.not_finite |= torch.cat([torch.isfinite(losses), torch.isfinite(norm).view(1)]).logical_not()
        skip_step = self.not_finite.any()
        self.optimizer.found_inf = skip_step.float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler does
        for parameter in self._apart.values():
            parameter.grad = torch.where(skip_step, 0.0, parameter.grad)  # type: ignore[arg-type]

    def bind(self, module: nn.Module, parameters: Parameters, prefix: str = "") -> Callable[..., Any]:
        """A module of the group as a function that reads its parameters from `parameters`, named as the group's.

        `prefix` marks the module's own among them.
        """
        if parameters is self.parameters:
            return module  # `functional_call` walks all modules, 0.3 ms per call for two small critics
        own = {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
        return lambda *inputs: functional_call(module, own, inputs)

    @property
    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, learning_rate: float) -> None:
        settings = self.optimizer.param_groups[0]
        if isinstance(settings["lr"], Tensor):
            settings["lr"].fill_(learning_rate)
        else:
            settings["lr"] = learning_rate

    def anneal(self, step: int, last_step: int | None) -> None:
        """Lowers the learning rate linearly, from what it was at step 0 to 0 at `last_step` (None: never)."""
        if last_step is not None:
            self.learning_rate = self.initial_learning_rate * max(0.0, 1 - step / last_step)

    def check(self) -> None:
        """Raises Diverged if a loss or gradient on a GPU was not finite since the last state was loaded."""
        if self.not_finite is not None and bool(self.not_finite.any()):
            self._raise_diverged(self.not_finite[:-1])

    def _raise_diverged(self, bad_tasks: Tensor) -> None:
        """bad_tasks (M,) bool: those with a loss that is not finite."""
        tasks = [self.task_names[index] for index in bad_tasks.nonzero().flatten().tolist()]
        if tasks:
            raise Diverged(f"{self.name} loss is not finite for the task(s) {', '.join(tasks)}")
        names = [
            name
            for name, parameter in self.parameters.items()
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
        ]
        raise Diverged(f"{self.name} gradient is not finite: {', '.join(names) or 'its norm overflows'}")

    def forget(self) -> None:
        """Starts the optimiser anew, without moments."""
        self.optimizer.state.clear()
        if isinstance(self._update, CudaGraphs):
            self._update.reset()  # the captured graphs write to the old moments

    def state(self) -> State:
        """Adam's moments by parameter name, and the aggregator's state."""
        moments = {name: dict(self.optimizer.state.get(value, {})) for name, value in self._optimized.items()}
        streams = {name: auxiliary.generator.get_state() for name, auxiliary in self.auxiliaries.items()}
        return {
            "optimizer": moments,
            "learning_rate": self.learning_rate,
            "aggregator": self.aggregator.state(),
            "auxiliary_streams": streams,
        }

    def load_state(self, state: State) -> None:
        """Loads a state written by `state`. Raises KeyError for a missing parameter, ValueError for another shape."""
        for name, parameter in self._optimized.items():
            moments = state["optimizer"][name]
            if any(moments[key].shape != parameter.shape for key in moments.keys() & {"exp_avg", "exp_avg_sq"}):
                raise ValueError(f"{self.name}: the optimiser's moments of {name} have another shape")
            if not moments:  # saved before the first step
                self.optimizer.state.pop(parameter, None)
                continue
            # In the memory layout of the parameter, which fused Adam takes for granted.
            self.optimizer.state[parameter] = {
                key: torch.empty_like(parameter).copy_(value) if key != "step" else value.clone().to(parameter.device)
                for key, value in moments.items()
            }
        self.learning_rate = float(state["learning_rate"])
        self.aggregator.load_state(state["aggregator"])
        for name, auxiliary in self.auxiliaries.items():
            load_torch_stream_state(auxiliary.generator, state["auxiliary_streams"][name])
        if self.not_finite is not None:
            self.not_finite.zero_()
        if isinstance(self._update, CudaGraphs):
            self._update.reset()  # the captured graphs write to the old moments


def _backend_of(batch: Batch) -> AbstractContextManager[None]:
    """The matmul backend of per-task gradients."""
    return default_matmul_backend() if len(set(batch.own_counts)) > 1 else nullcontext()


def _gradient_norm(parameters: Parameters) -> Tensor:
    """Euclidean norm () of all gradients."""
    return nn.utils.get_total_norm([value.grad for value in parameters.values() if value.grad is not None])
