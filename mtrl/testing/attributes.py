"""Everything reachable from an object, as named leaves that can be compared bit for bit.

This finds what a list of fields written by hand forgets: an attribute that a checkpoint leaves out, a counter that a
`forward` moves, a statistic that an evaluation touches.
"""

from __future__ import annotations

import enum
import functools
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtrl.optim.parameter_group import LastStep

View = Callable[[Any], Any]
"""What of an object counts: called with the object, its result is walked instead."""


def leaves(value: object, views: Mapping[type, View] | None = None) -> dict[str, object]:
    """The leaves of an object graph by path, such as `agent.actor_group.optimizer.state[0].step`.

    A tensor or array counts with dtype, shape and bits, a generator with its position, code by its name; gradients and
    caches do not count. An object met again is noted as the path it was first met under, so aliasing is compared too.
    """
    found: dict[str, object] = {}
    seen: dict[int, tuple[str, object]] = {}  # keeps the object, so that no other takes its id
    waiting = [("", value)]
    while waiting:
        path, node = waiting.pop()
        for kind, view in (views or {}).items():
            if isinstance(node, kind):
                node = view(node)
                break
        leaf = _leaf(node)
        if leaf is not None:
            found[path] = leaf
        elif id(node) in seen:
            found[path] = f"the same object as {seen[id(node)][0] or 'the whole'}"
        else:
            seen[id(node)] = path, node
            waiting += [(f"{path}{name}".removeprefix("."), child) for name, child in _children(node)]
    return found


def differences(left: Mapping[str, object], right: Mapping[str, object], limit: int = 5) -> list[str]:
    """Up to `limit` lines that say where two sets of leaves differ."""
    lines = [
        f"{path}: {_shown(left, path)} is not {_shown(right, path)}"
        for path in sorted(left.keys() | right.keys())
        if left.get(path, _MISSING) != right.get(path, _MISSING)
    ]
    return lines[:limit] + ([f"and {len(lines) - limit} more"] if len(lines) > limit else [])


_MISSING = "(nothing)"


def _shown(found: Mapping[str, object], path: str) -> str:
    return str(found.get(path, _MISSING))[:120]


def _leaf(node: object) -> object | None:
    """A comparable value, or None if the node has parts of its own."""
    if node is None or isinstance(node, bool | int | float | complex | str | bytes | np.generic | np.dtype | enum.Enum):
        # repr tells 1 from 1.0 and True, and NaN equals itself.
        return f"{type(node).__name__} {node!r}"
    if isinstance(node, Tensor):
        content = node.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return _Bits(content, f"tensor {node.dtype}", node)
    if isinstance(node, np.ndarray) and node.dtype != object:
        return _Bits(np.ascontiguousarray(node), f"array {node.dtype}", node)
    if isinstance(node, torch.Generator):
        return _Bits(node.get_state().numpy(), "torch generator", node.get_state())
    if isinstance(node, LastStep):
        return "the last step, for diagnostics"
    if isinstance(node, torch.autocast):  # what it keeps to put back when it is left does not count
        return f"autocast {node.device} {node.fast_dtype} {node._enabled}"
    if isinstance(node, np.random.Generator):
        return f"generator {node.bit_generator.state}"
    if isinstance(node, torch.autocast):  # its other attributes are what it found when it was entered last
        return f"autocast {node.device} {node.fast_dtype} {node._enabled}"
    if isinstance(node, type | types.FunctionType | types.BuiltinFunctionType | types.ModuleType | torch.device):
        return f"{type(node).__name__} {getattr(node, '__qualname__', node)}"
    if not isinstance(node, _CONTAINERS) and not hasattr(node, "__dict__") and not _slots(node):
        return f"a {type(node).__qualname__}"
    return None


class _Bits:
    """An array's content; equal when dtype, shape and every bit are."""

    def __init__(self, content: np.ndarray, kind: str, shaped: Tensor | np.ndarray):
        self.kind = f"{kind} {tuple(shaped.shape)}"
        self.content = content.tobytes()
        self.preview = shaped.reshape(-1)[:4].tolist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bits) and (self.kind, self.content) == (other.kind, other.content)

    def __hash__(self) -> int:
        return hash((self.kind, self.content))

    def __str__(self) -> str:
        return f"{self.kind} {self.preview}"


_CONTAINERS = (Mapping, list, tuple, set, frozenset, deque, np.ndarray, functools.partial, types.MethodType)


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        # Keys such as parameters have no name; their order stands for them, empty values for absent ones.
        for index, (key, child) in enumerate(node.items()):
            if isinstance(key, str | int | tuple):
                yield f"[{key!r}]", child
            elif not (isinstance(child, Mapping) and not child):
                yield f"[{index}]", child
    elif isinstance(node, set | frozenset):
        yield from ((f"{{{index}}}", child) for index, child in enumerate(sorted(node, key=repr)))
    elif isinstance(node, functools.partial):
        yield from ((".func", node.func), (".args", node.args), (".keywords", node.keywords))
    elif isinstance(node, types.MethodType):
        yield from ((".__func__", node.__func__), (".__self__", node.__self__))
    elif isinstance(node, list | tuple | deque | np.ndarray):
        yield from ((f"[{index}]", child) for index, child in enumerate(list(node)))
    for name in _slots(node):
        if hasattr(node, name):
            yield f".{name}", getattr(node, name)
    for name, child in getattr(node, "__dict__", {}).items():
        if isinstance(node, nn.Module) and name in ("_parameters", "_buffers", "_modules"):
            yield from ((f".{own}", value) for own, value in child.items())
        elif not isinstance(getattr(type(node), name, None), functools.cached_property):
            yield f".{name}", child


def _slots(node: object) -> list[str]:
    names = [getattr(cls, "__slots__", ()) for cls in type(node).__mro__]
    flat = [name for own in names for name in ([own] if isinstance(own, str) else own)]
    return [name for name in flat if name not in ("__dict__", "__weakref__")]
