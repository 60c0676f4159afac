"""The contract of a policy architecture, as a function that a plug-in's own tests call.

Shapes: B batch, M tasks, K ensemble members.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from mtrl.aggregation import Parameters, TaskLosses, task_gradients
from mtrl.faults import WrongResult
from mtrl.networks import Ensemble, Output, PolicyArchitecture, as_output, run
from mtrl.per_task import mean_per_task
from mtrl.seeding import seeded_construction, torch_stream
from mtrl.testing.attributes import differences, leaves
from mtrl.testing.generators import global_generators_untouched
from mtrl.types import Batch

SIZES = ((1, 1, 1), (5, 4, 3), (39, 8, 10))
"""(in_features, out_features, num_tasks) that are tried."""
NUM_BATCHES = 100
"""With all tasks, within which a gradient must have reached every parameter."""
TOLERANCE = 1e-4
"""Relative: a matrix product's last bits depend on how many rows it has."""


def check_architecture(cls: type[PolicyArchitecture], config: Any = None) -> None:
    """Raises AssertionError where an architecture breaks the contract of `PolicyArchitecture`.

    `config` is an instance of its Config (default: its defaults; small sizes make the check quick).
    """
    who = f"{cls.__module__}.{cls.__qualname__}"
    check_config(cls)
    settings = cls.Config() if config is None else config
    with global_generators_untouched(who):
        for in_features, out_features, num_tasks in SIZES:
            case = _Case(who, cls, settings, in_features, out_features, num_tasks)
            try:
                case.check()
            except WrongResult as error:
                raise AssertionError(f"{case.who}: it {error}") from error


def check_config(cls: type) -> None:
    """Raises AssertionError unless `cls.Config` is a frozen dataclass whose fields have defaults."""
    who = f"{cls.__module__}.{cls.__qualname__}"
    config = getattr(cls, "Config", None)
    assert isinstance(config, type), f"{who}: it has no nested class Config"
    assert dataclasses.is_dataclass(config), f"{who}.Config is no dataclass"
    assert "__dataclass_params__" in vars(config) or not inspect.get_annotations(config), (
        f"{who}.Config has fields and is no dataclass of its own; decorate it: @dataclass(frozen=True, kw_only=True)"
    )
    assert config.__dataclass_params__.frozen, (  # type: ignore[attr-defined]
        f"{who}.Config is not frozen; write @dataclass(frozen=True, kw_only=True)"
    )
    for field in dataclasses.fields(config):
        assert field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING, (
            f"{who}.Config: the field {field.name!r} has no default"
        )


class _Case:
    """One architecture at one size, with inputs to try it on."""

    def __init__(
        self, who: str, cls: type[PolicyArchitecture], config: Any, in_features: int, out_features: int, num_tasks: int
    ):
        self.who = f"{who} ({in_features} inputs, {out_features} outputs, {num_tasks} tasks)"
        self.cls = cls
        self.config = config
        self.in_features = in_features
        self.out_features = out_features
        self.num_tasks = num_tasks
        self.generator = torch_stream(1, "check architecture")
        self.network = self.make(1)
        self.vectorized = self.network.works_under_vmap

    def check(self) -> None:
        self.check_parameters()
        with global_generators_untouched(f"forward of {self.who}"):
            self.check_output()
            self.check_route()
        self.check_forward_writes_nothing()
        self.check_state_dict()
        self.check_rows_are_independent()
        self.check_ensemble()
        self.check_large_inputs()
        self.check_gradients_reach_every_parameter()
        self.check_task_gradients()
        self.check_bfloat16()
        self.check_no_rows()

    def make(self, seed: int) -> PolicyArchitecture:
        with seeded_construction(seed, "initial weights"):
            return self.cls(self.in_features, self.out_features, self.num_tasks, self.config)

    def inputs(self, num_samples: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features (B, in), tasks (B,) in turn, and noise (B, noise_size) where the architecture takes any."""
        features = scale * torch.randn(num_samples, self.in_features, generator=self.generator)
        tasks = torch.arange(num_samples) % self.num_tasks
        size = self.network.noise_size
        noise = torch.rand(num_samples, size, generator=self.generator) if size else None
        return features, tasks, noise

    def check_parameters(self) -> None:
        again = self.make(1)
        mine, other = dict(self.network.named_parameters()), dict(again.named_parameters())
        assert mine, f"{self.who}: it has no parameters"
        for name, parameter in mine.items():
            assert parameter.dtype == torch.float32, f"{self.who}: parameter {name!r} is {parameter.dtype}, not float32"
            assert parameter.requires_grad, (
                f"{self.who}: parameter {name!r} is not trained; constants are buffers (register_buffer)"
            )
            assert torch.equal(parameter, other.get(name, torch.zeros(0))), (
                f"{self.who}: made twice with one seed, parameter {name!r} differs; "
                "initial weights must come from torch's default generator, which the suite seeds for construction"
            )

    @torch.no_grad()
    def check_output(self) -> None:
        for num_samples in (1, 2, 7):
            features, tasks, noise = self.inputs(num_samples)
            # Without noise a routed architecture takes its most likely route.
            for given in [None] if noise is None else [noise, None]:
                kept = torch.cat([features.flatten(), tasks])
                output = run(self.network, features, tasks, given)
                self._check_one_output(output, num_samples)
                unchanged = torch.equal(torch.cat([features.flatten(), tasks]), kept)
                assert unchanged, f"{self.who}: forward changes its inputs in place"
                again = run(self.network, features, tasks, given)
                assert torch.equal(output.values, again.values), (
                    f"{self.who}: the same inputs give another output; "
                    "randomness comes in as `noise` (declare `noise_size`), never from a generator in forward"
                )

    def _check_one_output(self, output: Output, num_samples: int) -> None:
        assert torch.isfinite(output.values).all(), f"{self.who}: forward gives values that are not finite"
        for name, losses in output.losses.items():
            assert tuple(losses.shape) == (self.num_tasks,), (
                f"{self.who}: auxiliary loss {name!r} has shape {tuple(losses.shape)}, not one per task "
                f"({self.num_tasks},)"
            )
            assert torch.isfinite(losses).all(), f"{self.who}: auxiliary loss {name!r} is not finite"
        for name in ("route_log_prob", "route_entropy"):
            value = getattr(output, name)
            assert value is None or tuple(value.shape) == (num_samples,), (
                f"{self.who}: {name} has shape {tuple(value.shape)}, not one per row ({num_samples},)"
            )
        representation = output.representation
        assert representation is None or (representation.dim() == 2 and len(representation) == num_samples), (
            f"{self.who}: representation has shape {tuple(representation.shape)}, not (rows, d)"
        )
        size = self.network.route_size
        if output.route is None:
            assert not size, f"{self.who}: it declares route_size {size}, and forward gives no route"
        else:
            assert tuple(output.route.shape) == (num_samples, size), (
                f"{self.who}: route has shape {tuple(output.route.shape)}, not {(num_samples, size)}"
            )
            assert output.route.dtype == torch.int64, f"{self.who}: route is {output.route.dtype}, not int64"

    @torch.no_grad()
    def check_route(self) -> None:
        """A route passed back as `route` is taken again."""
        if not self.network.route_size:
            return
        features, tasks, noise = self.inputs(3 * self.num_tasks)
        first = run(self.network, features, tasks, noise)
        again = run(self.network, features, tasks, route=first.route)
        for name in ("route", "values", "route_log_prob"):
            mine, other = getattr(first, name), getattr(again, name)
            same = mine is None if other is None else mine is not None and torch.equal(mine, other)
            assert same, f"{self.who}: {name} is another when the route is passed back as `route`"

    def check_forward_writes_nothing(self) -> None:
        before = leaves(self.network)
        output = run(self.network, *self.inputs(2 * self.num_tasks))
        for name, value in output.diagnostics.items():
            assert value.shape[:1] == (2 * self.num_tasks,), (
                f"{self.who}: diagnostic {name!r} has shape {tuple(value.shape)}; its first dimension must be the rows"
            )
            assert not value.requires_grad, f"{self.who}: diagnostic {name!r} is not detached"
        changed = differences(before, leaves(self.network))
        assert not changed, (
            f"{self.who}: forward writes to the module: {'; '.join(changed)}; return what you want to keep as an Output"
        )

    @torch.no_grad()
    def check_state_dict(self) -> None:
        other = self.make(2)
        other.load_state_dict(self.network.state_dict())
        inputs = self.inputs(2 * self.num_tasks)
        left, right = run(self.network, *inputs).values, run(other, *inputs).values
        assert torch.equal(left, right), (
            f"{self.who}: another instance with the same state_dict gives other outputs; what it depends on must be a "
            "parameter or a registered buffer"
        )

    @torch.no_grad()
    def check_rows_are_independent(self) -> None:
        num_samples = 3 * self.num_tasks + 1
        features, tasks, noise = self.inputs(num_samples)
        values = run(self.network, features, tasks, noise).values
        order = torch.randperm(num_samples, generator=self.generator)
        shuffled = run(self.network, features[order], tasks[order], None if noise is None else noise[order]).values
        self._assert_close(shuffled, values[order], "the order of the rows changes what a row gets")
        for row in (0, num_samples - 1):
            one = slice(row, row + 1)
            alone = run(self.network, features[one], tasks[one], None if noise is None else noise[one]).values
            self._assert_close(alone, values[one], "a row gets another output alone than in a batch")

    def _assert_close(self, found: Tensor, expected: Tensor, fault: str) -> None:
        # Outputs start near zero; against the bound of the initial weights, rounding is far below any real difference.
        scale = expected.abs().max().clamp(min=1e-6)
        gap = float((found - expected).abs().max() / scale)
        assert gap <= TOLERANCE, f"{self.who}: {fault} (by {gap:.1e} of the largest value)"

    @torch.no_grad()
    def check_ensemble(self) -> None:
        members = [self.make(1), self.make(2)]
        features, tasks, noise = self.inputs(2 * self.num_tasks)
        noises = None if noise is None else torch.stack([noise, noise.flip(0)], dim=1)
        together = Ensemble(members)(features, tasks, noises).values
        for index, member in enumerate(members):
            alone = run(member, features, tasks, None if noises is None else noises[:, index]).values
            self._assert_close(together[index], alone, "a member of an ensemble gives another output than alone")

    def check_large_inputs(self) -> None:
        for scale in (1e3, 1e6):
            output = run(self.network, *self.inputs(2 * self.num_tasks, scale))
            total = output.values.sum() + sum(losses.sum() for losses in output.losses.values())
            gradients = torch.autograd.grad(total, list(self.network.parameters()), allow_unused=True)
            finite = [torch.isfinite(output.values).all()]
            finite += [torch.isfinite(gradient).all() for gradient in gradients if gradient is not None]
            assert all(finite), f"{self.who}: features of size {scale:.0e} give values or gradients that are not finite"

    def check_gradients_reach_every_parameter(self) -> None:
        """Within some steps, because a layer that starts at zero holds back the gradient of those below."""
        network = self.make(3)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        waiting = {name for name, _ in network.named_parameters()}
        for _ in range(NUM_BATCHES):
            if not waiting:
                return
            output = run(network, *self.inputs(32 * self.num_tasks))
            targets = torch.randn(output.values.shape, generator=self.generator)
            loss = (output.values - targets).square().mean()
            loss = loss + sum(losses.mean() for losses in output.losses.values())
            if output.route_log_prob is not None:
                loss = loss + output.route_log_prob.mean()
            optimizer.zero_grad()
            loss.backward()
            for name, parameter in network.named_parameters():
                if parameter.grad is not None and bool((parameter.grad != 0).any()):
                    waiting.discard(name)
            optimizer.step()
        if self.num_tasks > 1:  # what chooses between tasks may rest while there is one
            assert not waiting, (
                f"{self.who}: no gradient reaches {sorted(waiting)} although the batches held every task; "
                "drop these parameters, or check for a detach or an argmax on their way"
            )

    def check_task_gradients(self) -> None:
        """Per-task gradients sum to the gradient of the sum; one pass over all gives what one per task gives."""
        parameters = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        batch = self._batch(4)
        expected, _ = task_gradients(self._loss, batch, parameters, self.num_tasks, vectorized=False)
        for name, gradient in self._gradient_of_the_sum(batch).items():
            self._assert_close(
                expected[name].sum(0),
                gradient,
                f"called with other parameters (torch.func.functional_call), the gradient of {name!r} is another; "
                "forward may copy a parameter, for instance by slicing a ParameterList",
            )
        if not self.vectorized:
            return
        try:
            found, _ = task_gradients(self._loss, batch, parameters, self.num_tasks)
        except RuntimeError:
            # Data-dependent Python (if, .item(), boolean indexing): training takes one pass per task instead.
            self.vectorized = False
            return
        for name, gradients in found.items():
            self._assert_close(gradients, expected[name], f"under vmap the gradient of {name!r} is another")

    def check_bfloat16(self) -> None:
        """Under autocast to bfloat16 the network runs, gives float32 and learns, under `vmap` too where it may."""
        parameters = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        batch = self._batch(4)

        def loss(parameters: Parameters, batch: Batch) -> TaskLosses:
            with torch.autocast("cpu", torch.bfloat16):
                return self._loss(parameters, batch)

        try:
            with torch.autocast("cpu", torch.bfloat16):
                output = run(self.network, batch.observation, batch.task_ids, batch.noise.get("noise"))
            self._check_one_output(output, len(batch.reward))
            by_task, _ = task_gradients(loss, batch, parameters, self.num_tasks, vectorized=self.vectorized)
        except (AssertionError, WrongResult):
            raise
        except Exception as error:
            raise AssertionError(
                f"{self.who}: under `precision` bfloat16 it fails ({error}); operations that take tensors of one dtype "
                "alone need `.float()`, since what products give is bfloat16 there"
            ) from error
        for name, gradients in by_task.items():
            assert gradients.dtype == torch.float32, f"{self.who}: the gradient of {name!r} is {gradients.dtype}"
            assert torch.isfinite(gradients).all(), f"{self.who}: in bfloat16 the gradient of {name!r} is not finite"

    @torch.no_grad()
    def check_no_rows(self) -> None:
        """PPO asks about the successors of a rollout; where every episode has ended there is none."""
        features, tasks, noise = self.inputs(0)
        try:
            output = run(self.network, features, tasks, noise)
        except WrongResult:
            raise
        except Exception as error:
            raise AssertionError(f"{self.who}: forward takes no empty batch ({error})") from error
        self._check_one_output(output, 0)

    def _gradient_of_the_sum(self, batch: Batch) -> dict[str, Tensor]:
        """Through the module's own parameters, as an agent calls it where no method asks for per-task gradients."""
        own = dict(self.network.named_parameters())
        output = run(self.network, batch.observation, batch.task_ids, batch.noise.get("noise"))
        total = self._task_losses(output, batch).sum()
        gradients = torch.autograd.grad(total, list(own.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(own, gradients, strict=True))

    def _loss(self, parameters: Parameters, batch: Batch) -> TaskLosses:
        output = functional_call(self.network, dict(parameters), (batch.observation, batch.task_ids), dict(batch.noise))
        shape = (len(batch.observation), self.out_features)
        return TaskLosses(self._task_losses(as_output(output, shape), batch))

    def _task_losses(self, output: Output, batch: Batch) -> Tensor:
        losses = mean_per_task((output.values - 1).square().mean(-1), batch.task_ids, self.num_tasks)
        for auxiliary in output.losses.values():
            losses = losses + auxiliary
        if output.route_log_prob is not None:
            losses = losses + mean_per_task(output.route_log_prob, batch.task_ids, self.num_tasks)
        return losses

    def _batch(self, rows_per_task: int) -> Batch:
        """Rows sorted by task, the same number of each."""
        features, tasks, noise = self.inputs(rows_per_task * self.num_tasks)
        zeros = torch.zeros(len(tasks))
        return Batch(
            task_ids=tasks.sort().values,
            observation=features,
            action=zeros,
            reward=zeros,
            terminated=zeros.bool(),
            truncated=zeros.bool(),
            next_observation=features,
            shares=torch.full((self.num_tasks,), 1 / self.num_tasks),
            counts=self.num_tasks * (rows_per_task,),
            noise={} if noise is None else {"noise": noise},
        )
