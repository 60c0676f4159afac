"""Losses on the CPU: the torch calls of a function are written down once, and from then on made one after the other.

What leads from one call to the next, modules, dataclasses and look-ups, costs a small network as much as what it
computes. What is written down is the straight program that one would write by hand for that one form of batch: the same
calls on the same tensors, so the same bits. It holds for what is a function of its batch and of tensors that change in
place (parameters, buffers), as every loss has to be: no branch on a value, no number in an attribute that changes.

A function that reads values is found out when it is written down, and one that changes some other way by comparing the
program with it, bit for bit and with its gradients, at first, after 10 and 100 calls and every `CALLS_BETWEEN_CHECKS`.
"""

from __future__ import annotations

import operator
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.fx
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mtrl.aggregation import TaskLosses
from mtrl.errors import BadInput
from mtrl.types import Batch

CALLS_BEFORE = 3
"""Of a form of batch before it is written down: where tasks get ever other numbers of rows, hardly anything is."""
MAX_PROGRAMS = 32
IDLE_CALLS = 1000
"""Calls without a use after which a program makes room for another."""
CALLS_BETWEEN_CHECKS = 1000

T = TypeVar("T", Tensor, TaskLosses)
_MAX_COUNTED = 64


def recorded(function: Callable[[Batch], T], parameters: Sequence[Tensor], name: str) -> Callable[[Batch], T]:
    """`function`, of batches on the CPU whose rows are sorted by task, by programs; what has none is called as it is.

    `parameters`: what its result is differentiated by. Raises BadInput, with the function's `name`, once a program no
    longer makes what the function makes.
    """
    counts: Counter[Hashable] = Counter()
    programs: OrderedDict[Hashable, Callable[[Batch], T] | None] = OrderedDict()  # the one used last is the last
    last_calls: dict[Hashable, int] = {}
    num_calls = 0

    def has_room() -> bool:
        if len(programs) == MAX_PROGRAMS and num_calls - last_calls[next(iter(programs))] > IDLE_CALLS:
            del last_calls[programs.popitem(last=False)[0]]
        return len(programs) < MAX_PROGRAMS

    def call(batch: Batch) -> T:
        nonlocal num_calls
        num_calls += 1
        form = _form(batch)
        counts[form] += 1
        if form not in programs:
            if len(counts) > _MAX_COUNTED:
                counts.clear()
            if counts[form] <= CALLS_BEFORE or not has_room():
                return function(batch)
            programs[form] = _checked_program(function, parameters, batch)
        programs.move_to_end(form)
        last_calls[form] = num_calls
        program = programs[form]
        if program is None:
            return function(batch)
        due = counts[form] in (10, 100) or counts[form] % CALLS_BETWEEN_CHECKS == 0
        if due and not _same(function, program, parameters, batch):
            raise BadInput(
                f"record_losses: {name} depends on more than its batch and on tensors that change in place; "
                "say --no-record-losses, with --resume --record-losses False"
            )
        return program(batch)

    return call


def _form(batch: Batch) -> Hashable:
    """What the calls of a pure function may depend on beside the numbers in its rows."""
    return batch.counts, torch.is_grad_enabled(), tuple(batch.extras), tuple(batch.draws)


def _checked_program(
    function: Callable[[Batch], T], parameters: Sequence[Tensor], batch: Batch
) -> Callable[[Batch], T] | None:
    """The program of a function; None if it cannot be written down."""
    try:
        program = _written_down(function, batch)
        return program if _same(function, program, parameters, batch) else None
    except Exception:
        # Whatever cannot be written down, an argument that has no Python text among it, the function itself can do; a
        # fault of its own shows when it is called.
        return None


def _same(
    function: Callable[[Batch], T], program: Callable[[Batch], T], parameters: Sequence[Tensor], batch: Batch
) -> bool:
    """Whether both make the same bits, and the same gradients. What is not finite is not compared."""
    found = [_flat(function(batch)), _flat(program(batch))]
    for tensors in found:
        total = tensors[0]
        if parameters and total.requires_grad:
            tensors += torch.autograd.grad(total.sum(), parameters, allow_unused=True, materialize_grads=True)
    if not all(bool(torch.isfinite(value).all()) for value in found[0]):
        return True
    return len(found[0]) == len(found[1]) and all(
        own.requires_grad == other.requires_grad and torch.equal(own, other) for own, other in zip(*found, strict=True)
    )


def _flat(result: Tensor | TaskLosses) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [result.losses, *result.rows.values()]


class _ReadsValuesError(Exception):
    """The function asks for something that the next batch may answer otherwise."""


_METADATA = {"__get__", "size", "dim", "stride", "numel", "__len__", "is_floating_point", "is_contiguous"}
"""Calls whose answers, where these are no tensors, are the same for all batches of a form."""
_SHAPE_BY_VALUE = {"nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "repeat_interleave"}


_Call = tuple[Any, tuple[Any, ...], dict[str, Any], Any]
"""Function, arguments, named arguments, result."""


class _Recorder(TorchFunctionMode):
    """Notes every call of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _SHAPE_BY_VALUE or (name in ("__getitem__", "__setitem__") and _picks_by_value(args[1])):
            raise _ReadsValuesError(name)
        if name == "__set__":
            raise _ReadsValuesError("an attribute of a tensor is set")
        result = func(*args, **(kwargs or {}))
        if _tensors(result) or result is None:
            self.calls.append((func, args, kwargs or {}, result))
        elif name not in _METADATA:
            raise _ReadsValuesError(name)
        return result


def _picks_by_value(index: Any) -> bool:
    return any(value.dtype in (torch.bool, torch.uint8) for value in _tensors(index))


def _tensors(value: Any) -> list[Tensor]:
    """Those in a tensor, list or tuple."""
    if isinstance(value, Tensor):
        return [value]
    return [found for part in value for found in _tensors(part)] if isinstance(value, list | tuple) else []


def _written_down(function: Callable[[Batch], T], batch: Batch) -> Callable[[Batch], T]:
    """The calls that the function makes for this batch as a Python function of the batch."""
    with _Recorder() as recorder:
        result = function(batch)
    program = _Program(_given(batch), recorder.calls)
    for call in recorder.calls:
        program.add(call)
    forward, kept = program.returning(_flat(result)), tuple(program.kept)
    if isinstance(result, Tensor):
        return cast(Callable[[Batch], T], lambda batch: forward(*_given(batch), *kept)[0])
    rows = tuple(result.rows)

    def task_losses(batch: Batch) -> TaskLosses:
        losses, *others = forward(*_given(batch), *kept)
        return TaskLosses(losses, dict(zip(rows, others, strict=True)))

    return cast(Callable[[Batch], T], task_losses)


def _given(batch: Batch) -> list[Tensor]:
    """All tensors of a batch; their order is the same for all batches of a form."""
    return [*batch.row_tensors().values(), batch.shares]


class _Program:
    """A graph of calls, which torch.fx makes a Python function of."""

    def __init__(self, given: Sequence[Tensor], calls: Sequence[_Call]):
        self.kept: list[Tensor] = []  # what is neither given nor made, parameters above all: further arguments
        self._graph = torch.fx.Graph()
        # Nodes of tensors, by identity: the calls keep all of them alive.
        self._nodes = {id(value): self._graph.placeholder(f"given_{index}") for index, value in enumerate(given)}
        self._written = set().union(*map(_memory, map(_written_to, calls)))
        self._joined: dict[str, torch.fx.Node] = {}

    def add(self, call: _Call) -> None:
        """Another call."""
        func, args, named, made = call
        if getattr(func, "__name__", "") == "__get__":  # an attribute that is a tensor, such as `.T`
            attribute: str = func.__self__.__name__
            func, args = getattr, (args[0], attribute)
        nodes = self._node_of(args)
        named = {name: self._node_of(value) for name, value in named.items()}
        if func is torch.cat and not self._written & _memory([args, made]):
            # Members of an ensemble join the same: once is enough.
            key = f"{nodes} {named}"
            if key not in self._joined:
                self._joined[key] = self._graph.call_function(func, nodes, named)
            self._nodes[id(made)] = self._joined[key]
            return
        node = self._graph.call_function(func, nodes, named)
        if isinstance(made, Tensor):
            self._nodes[id(made)] = node
        elif made is not None:
            for place, part in enumerate(made):
                self._nodes[id(part)] = self._graph.call_function(operator.getitem, (node, place))

    def returning(self, results: Sequence[Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        """The program that ends with these results; its arguments are what is given and what is kept."""
        self._graph.output(self._node_of(tuple(results)))
        return cast(Callable[..., tuple[Tensor, ...]], torch.fx.GraphModule(nn.Module(), self._graph).forward)

    def _node_of(self, value: Any) -> Any:
        """The node of a tensor, also in a list or tuple; all else as it is."""
        if isinstance(value, list | tuple) and _tensors(value):
            return type(value)(self._node_of(part) for part in value)
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._nodes:
            self._nodes[id(value)] = self._graph.placeholder(f"kept_{len(self.kept)}")
            self.kept.append(value)
        return self._nodes[id(value)]


def _written_to(call: _Call) -> list[Tensor]:
    """What a call changes in place: its first argument, if that is what it returns, or if it returns nothing."""
    _, args, named, made = call
    changed = args[:1] if made is None or (args and made is args[0]) else ()
    return _tensors([*changed, named.get("out")])


def _memory(values: Any) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in _tensors(values)}
